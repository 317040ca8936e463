"""A lane to the root as a pump sees it: the pump's thread waits while the event loop sends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from tracker_client.transport.upload_call import UploadBrokenOff, UploadChannel, UploadMismatch, UploadRefused
from tracker_daemon.backends.root import LanePosition
from tracker_daemon.errors import PoisonEntry, UpstreamUnavailable
from tracker_daemon.files.content_files import content_path
from tracker_daemon.upstream.lane_stream import LaneStream
from tracker_daemon.upstream.root import Root
from tracker_daemon.upstream.root_link import RootLink
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

T = TypeVar("T")


class PumpLane:
    """The :class:`tracker_daemon.backends.root.RootLane` of one run. On the pump's thread.

    ``find_link`` is called on ``loop``; ``contents`` is the directory of the content store, ``epoch`` returns
    the journal's epoch.
    """

    def __init__(
        self,
        root: Root,
        find_link: Callable[[], RootLink],
        loop: asyncio.AbstractEventLoop,
        contents: Path,
        epoch: Callable[[], int],
        *,
        files: bool,
    ) -> None:
        self._epoch = epoch
        self._root = root
        self._find_link = find_link
        self._loop = loop
        self._contents = contents
        self._files = files
        self._lane: LaneStream | None = None

    def deliver(self, epoch: int, first: int, payloads: Sequence[bytes]) -> None:
        """Send ``payloads``, numbered from ``first``; return once the root has acknowledged all.

        Raises:
            UpstreamUnavailable: the root cannot be reached, or the connection breaks meanwhile.
            PoisonEntry: the root refuses a file, or a file is gone from this daemon's store.
        """
        lane = self._lane = self._on_loop(self._open(LanePosition(epoch, first - 1)))
        if self._files:
            for payload in payloads:
                self._upload(lane, payload)
        self._on_loop(lane.deliver(first, payloads))

    def epoch(self) -> int:
        """Return the journal's epoch."""
        return self._epoch()

    async def _open(self, position: LanePosition) -> LaneStream:
        lane = self._find_link().lane(position, files=self._files)
        await lane.wait_for_first_attempt()
        return lane

    def _upload(self, lane: LaneStream, payload: bytes) -> None:
        """Upload the contents of a batch's items to the root, before the batch."""
        connection = lane.connection
        if connection is None:
            raise UpstreamUnavailable(lane.problem)
        channel = UploadChannel(connection.address, connection.endpoint)
        try:
            for digest, size in _contents_of(payload).items():
                channel.send(digest, size, partial(_chunks, content_path(self._contents, digest.hex())))
        except UploadRefused as error:
            raise PoisonEntry(f"the root refuses it: {error}") from error
        except FileNotFoundError as error:
            msg = f"{error.filename} is gone; restore it, or its table, image or artifact is not recorded"
            raise PoisonEntry(msg) from error
        except (UploadBrokenOff, UploadMismatch) as error:
            raise UpstreamUnavailable(f"a file could not be forwarded: {error}") from error
        finally:
            channel.close()

    def problem(self) -> str:
        """Return the reason for which the lane is not connected; "" if it is."""
        return self._lane.problem if self._lane is not None else ""

    def location(self) -> str:
        """Return the root's endpoint, as the setting names it."""
        return str(self._root)

    def _on_loop(self, work: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _contents_of(payload: bytes) -> Mapping[bytes, int]:
    """Return the contents of a batch's items: the size in bytes by SHA-256 digest."""
    body = pb.BatchBody.FromString(payload)
    items = (item for part in body.parts for item in part.body.items)
    return {content.sha256: content.size_bytes for item in items for content in item.contents}


def _chunks(path: Path, offset: int) -> Iterator[bytes]:
    """Yield the file's bytes from ``offset`` on, in chunks that fit into a message."""
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(limits.CONTENT_CHUNK_BYTES):
            yield chunk
