"""One upload: a call of the Upload method, and the meaning of its errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from queue import SimpleQueue

from tracker_client.endpoints.endpoint import Endpoint
from tracker_client.transport.calls import open_channel
from tracker_client.transport.channel import CallFailed
from tracker_protocol import UPLOAD_METHOD
from tracker_protocol.v1 import tracker_pb2 as pb

_REFUSED = frozenset(("FAILED_PRECONDITION", "INVALID_ARGUMENT", "PERMISSION_DENIED", "UNIMPLEMENTED"))
_FULL = "RESOURCE_EXHAUSTED"
_MISMATCH = "DATA_LOSS"


class UploadRefused(Exception):
    """The daemon refuses this content; the message is its reason."""


class UploadMismatch(Exception):
    """The bytes that arrived do not have the announced digest."""


class UploadBrokenOff(Exception):
    """The upload broke off and may be tried again. ``daemon_full``: the daemon has no room now."""

    def __init__(self, text: str, *, daemon_full: bool = False) -> None:
        super().__init__(text)
        self.daemon_full = daemon_full


class UploadChannel:
    """A connection for uploads, apart from the stream's. Any thread may call ``close``, which ends a call.

    Raises:
        EndpointError: this process was forked, and the helper that its calls need cannot be started.
    """

    def __init__(self, address: str, endpoint: Endpoint) -> None:
        self.address = address
        self._channel = open_channel(address, endpoint)

    def send(self, sha256: bytes, size_bytes: int, chunks: Callable[[int], Iterator[bytes]]) -> None:
        """Upload a content; return once it is durable at the daemon.

        ``chunks(offset)`` yields the content's bytes from the offset at which an earlier call broke off. Its
        errors are raised here.

        Raises:
            UploadRefused: the daemon refuses the content.
            UploadMismatch: the bytes that arrived do not have the announced digest.
            UploadBrokenOff: the connection broke, or the daemon has no room.
        """
        offsets: SimpleQueue[int | None] = SimpleQueue()
        failures: list[BaseException] = []
        requests = _requests(sha256, size_bytes, chunks, offsets, failures)
        try:
            with closing(self._channel.call(UPLOAD_METHOD, requests, pb.UploadReply.FromString)) as replies:
                for reply in replies:
                    if reply.complete:
                        return
                    offsets.put(reply.offset)
        except CallFailed as failure:
            if not failures:
                raise _translated(failure) from failure
        finally:
            offsets.put(None)  # lets the channel's own thread end
        raise failures[0] if failures else UploadBrokenOff("the daemon ended the upload")

    def close(self) -> None:
        """End the connection, and the call on it."""
        self._channel.close()


def _requests(
    sha256: bytes,
    size_bytes: int,
    chunks: Callable[[int], Iterator[bytes]],
    offsets: SimpleQueue[int | None],
    failures: list[BaseException],
) -> Iterator[bytes]:
    """Yield the requests, on the channel's thread. Errors are put into ``failures``: the call sees an end."""
    beginning = pb.UploadBeginning(sha256=sha256, size_bytes=size_bytes)
    yield pb.UploadRequest(beginning=beginning).SerializeToString()
    offset = offsets.get()
    if offset is None:
        return
    try:
        for chunk in chunks(offset):
            yield pb.UploadRequest(chunk=chunk).SerializeToString()
    except Exception as error:  # noqa: BLE001 - the thread's outermost frame here; raised again in send()
        failures.append(error)


def _translated(failure: CallFailed) -> Exception:
    code, details = failure.code, failure.details
    if code in _REFUSED:
        return UploadRefused(details or code)
    if code == _MISMATCH:
        return UploadMismatch(details)
    return UploadBrokenOff(f"{details} ({code})", daemon_full=code == _FULL)
