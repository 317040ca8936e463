"""A link: all that one run has to do with the root, while the run goes on.

Two lanes lead there, the second for items with contents, once there is one. On the first also goes what ranks
and the root have to tell one another, and which ranks are connected here. The root counts a rank as gone only
when it is told so; that is told once everything that the rank had said is acknowledged.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from tracker_client.transport.upload_call import UploadBrokenOff, UploadChannel, UploadMismatch, UploadRefused
from tracker_daemon.backends.root import LanePosition
from tracker_daemon.errors import PoisonEntry, UpstreamUnavailable
from tracker_daemon.files.content_files import content_path
from tracker_daemon.upstream.lane import Lane, Mark
from tracker_daemon.upstream.root import Root
from tracker_protocol import PROTOCOL_VERSION, limits
from tracker_protocol.v1 import tracker_pb2 as pb

T = TypeVar("T")
_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class ThisNode:
    """How this daemon introduces itself; ``id`` is its journal's."""

    id: bytes
    host: str
    pid: int

    def stream_id(self, run_id: str, epoch: int, *, files: bool) -> bytes:
        """The stream of a lane: another one in each epoch, since its batches may be others then."""
        parts = (self.id, run_id.encode(), str(epoch).encode(), b"files" if files else b"")
        return hashlib.sha256(b"\0".join(parts)).digest()[:_ID_BYTES]


class Link:
    """On the event loop. ``names`` tells the run's dictionary, ``take`` gets what the root sends.

    ``connected`` is told when a lane is connected, and whether it is the one for files; ``mark`` is of a
    lane's stream, by epoch and kind, and ``ahead`` is told of a root that has more of one than the journal.
    """

    def __init__(
        self,
        root: Root,
        node: ThisNode,
        run_id: str,
        names: Callable[[], Awaitable[Sequence[str]]],
        take: Callable[[pb.DaemonMessage], None],
        connected: Callable[[bool], None],
        mark: Callable[[int, bool], Mark],
        ahead: Callable[[int], None],
    ) -> None:
        self._root = root
        self._connected = connected
        self._mark = mark
        self._ahead = ahead
        self._node = node
        self._run_id = run_id
        self._names = names
        self._take = take
        self._lanes: dict[bool, tuple[int, Lane]] = {}
        self._present: dict[bytes, pb.PresentRank] = {}
        self._closed = False
        self._asked: dict[tuple[bytes, str], pb.FromRank] = {}
        """What ranks have asked that is not answered for good: asked again whenever the root is connected."""

    # ---- lanes -----------------------------------------------------------------------------------

    def lane(self, state: LanePosition, *, files: bool = False) -> Lane:
        """The lane of an epoch, which goes on where ``state`` says, if it is new here.

        Raises:
            UpstreamUnavailable: the link is closed.
        """
        if self._closed:
            raise UpstreamUnavailable("this daemon ends, and connects to the one above no more")
        known = self._lanes.get(files)
        if known is not None:
            epoch, lane = known
            if epoch == state.epoch:
                # It may have been made before that was known; the next Hello says it then.
                lane.acknowledged = max(lane.acknowledged, state.sequence)
                return lane
            lane.end()
        hello = self._hello_of(state.epoch, files=files)
        lane = Lane(
            self._root, state.sequence, hello, self._take, partial(self._introduce, files=files),
            self._mark(state.epoch, files), self._ahead,
        )  # fmt: skip
        self._lanes[files] = state.epoch, lane
        return lane

    def begin_anew(self, epoch: int) -> None:
        """End the lanes of other epochs; that for batches begins at once, that for files with a first one."""
        for files, (lanes_epoch, lane) in list(self._lanes.items()):
            if lanes_epoch != epoch:
                lane.end()
                del self._lanes[files]
        self.lane(LanePosition(epoch, 0))

    def _hello_of(self, epoch: int, *, files: bool) -> Callable[[int], Awaitable[pb.Hello]]:
        async def hello(acknowledged: int) -> pb.Hello:
            node = self._node
            return pb.Hello(
                protocol_version=PROTOCOL_VERSION,
                stream_id=node.stream_id(self._run_id, epoch, files=files),
                last_acknowledged=acknowledged,
                names=() if files else await self._names(),
                node=pb.Node(
                    node_id=node.id, run_id=self._run_id, host=node.host, pid=node.pid, files_lane=files
                ),
            )

        return hello

    @property
    def _batches(self) -> Lane | None:
        """The lane for batches, while there is one."""
        known = self._lanes.get(False)
        return known[1] if known is not None else None

    def flush_interval_s(self) -> float | None:
        """How often the root wants batches; None while it has not said so."""
        return self._batches.flush_interval_s if self._batches is not None else None

    @property
    def root_learns(self) -> bool:
        """Whether the root has to know of idle ranks' flushes."""
        return self._batches is not None and self._batches.root_learns

    async def close(self) -> None:
        """End all connections, for good."""
        self._closed = True
        lanes, self._lanes = self._lanes, {}
        for _, lane in lanes.values():
            await lane.close()

    # ---- ranks -----------------------------------------------------------------------------------

    def came(self, present: pb.PresentRank) -> None:
        """A rank is connected here, or is again: what the root sent on its former connection may be lost.

        The root is shown that it was away, so that it takes up with the rank anew.
        """
        if self._present.pop(present.stream_id, None) is not None:
            self._tell_presence()
        self._present[present.stream_id] = present
        self._tell_presence()

    def left(self, stream_id: bytes) -> None:
        """A rank is not connected any more, and everything that it said is acknowledged."""
        for asked in [asked for asked in self._asked if asked[0] == stream_id]:
            del self._asked[asked]
        if self._present.pop(stream_id, None) is not None:
            self._tell_presence()

    def relay(self, stream_id: bytes, message: pb.ClientMessage) -> None:
        """Pass on what a rank has to say to the root."""
        from_rank = pb.FromRank(stream_id=stream_id, message=message)
        kind = message.WhichOneof("message")
        if kind == "await_delivery":
            self._asked[stream_id, kind] = from_rank
        elif kind == "handles_request":
            self._asked[stream_id, f"{kind} {message.handles_request.backend}"] = from_rank
        self._send(pb.ClientMessage(from_rank=from_rank))

    def delivered(self, stream_id: bytes) -> None:
        """A rank is told that every backend has what it sent."""
        self._asked.pop((stream_id, "await_delivery"), None)

    def heartbeat(self) -> None:
        """Show the root that this daemon lives, though there is nothing to say."""
        self._send(pb.ClientMessage(heartbeat=pb.Heartbeat()))

    def _introduce(self, *, files: bool) -> None:
        self._connected(files)
        if files:
            return
        self._tell_presence()
        for from_rank in self._asked.values():
            self._send(pb.ClientMessage(from_rank=from_rank))

    def _tell_presence(self) -> None:
        if self._batches is not None:
            through = self._batches.acknowledged
            presence = pb.Presence(through_sequence=through, ranks=self._present.values())
            self._send(pb.ClientMessage(presence=presence))

    def _send(self, message: pb.ClientMessage) -> None:
        if self._batches is not None:
            self._batches.send(message)


class PumpLane:
    """The lane of the link that ``find`` finds, for a pump: called on its thread, it waits for the loop."""

    def __init__(
        self,
        root: Root,
        find: Callable[[], Link],
        loop: asyncio.AbstractEventLoop,
        contents: Path,
        epoch: Callable[[], int],
        *,
        files: bool,
    ) -> None:
        self._epoch = epoch
        self._root = root
        self._find = find
        self._loop = loop
        self._contents = contents
        self._files = files
        self._lane: Lane | None = None

    def deliver(self, epoch: int, first: int, payloads: Sequence[bytes]) -> None:
        """Returns once the root has acknowledged ``payloads``; see :class:`RootLane`."""
        lane = self._lane = self._on_loop(self._open(LanePosition(epoch, first - 1)))
        if self._files:
            for payload in payloads:
                self._upload(lane, payload)
        self._on_loop(lane.deliver(first, payloads))

    def epoch(self) -> int:
        """The journal's."""
        return self._epoch()

    async def _open(self, state: LanePosition) -> Lane:
        lane = self._find().lane(state, files=self._files)
        await lane.tried()
        return lane

    def _upload(self, lane: Lane, payload: bytes) -> None:
        """Have the contents of a batch's items at the root before the batch."""
        connection = lane.connection
        if connection is None:
            raise UpstreamUnavailable(lane.problem)
        channel = UploadChannel(connection.address, connection.endpoint)
        try:
            for digest, size in _contents_of(payload).items():
                channel.send(digest, size, partial(_chunks, content_path(self._contents, digest.hex())))
        except UploadRefused as error:
            raise PoisonEntry(f"the daemon above does not take it: {error}") from error
        except (UploadBrokenOff, UploadMismatch) as error:
            raise UpstreamUnavailable(f"a file could not be forwarded: {error}") from error
        finally:
            channel.close()

    def problem(self) -> str:
        """Why it is not connected; "" while it is."""
        return self._lane.problem if self._lane is not None else ""

    def location(self) -> str:
        """Where the root is."""
        return str(self._root)

    def _on_loop(self, work: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _contents_of(payload: bytes) -> Mapping[bytes, int]:
    body = pb.BatchBody.FromString(payload)
    items = (item for part in body.parts for item in part.body.items)
    return {content.sha256: content.size_bytes for item in items for content in item.contents}


def _chunks(path: Path, offset: int) -> Iterator[bytes]:
    """The file's bytes from ``offset`` on, in chunks that a message takes."""
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(limits.CONTENT_CHUNK_BYTES):
            yield chunk
