"""Uploads: each call carries one content from a client into the store.

Separate threads write and hash files, a chunk at a time, so neither the event loop nor a rank's stream waits
for a disk. If a call breaks off, its chunks stay; the next call continues after them.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import grpc
import grpc.aio
import structlog

from tracker_daemon.contents.store import ContentStore, IncomingContent
from tracker_daemon.errors import ContentMismatch, ContentRefused, ContentStoreFull, ProtocolError
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

if TYPE_CHECKING:  # generic in their stubs only
    Context = grpc.aio.ServicerContext[Any, Any]

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger(__name__)
_THREADS = 4
_BEGINNING_TIMEOUT_S = 30.0
_DIGEST_BYTES = 32
_STATUS_OF = (
    (ContentMismatch, grpc.StatusCode.DATA_LOSS),
    (ContentStoreFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (ContentRefused, grpc.StatusCode.FAILED_PRECONDITION),
    (ProtocolError, grpc.StatusCode.INVALID_ARGUMENT),
)


class UploadService:
    """The Upload method of the protocol, into ``store``."""

    def __init__(self, store: ContentStore) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(_THREADS, "contents")
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._room = asyncio.Semaphore(limits.UPLOADS_MAX)

    async def upload(self, requests: AsyncIterator[pb.UploadRequest], context: Context) -> None:
        """Receive one content."""
        try:
            beginning = await self._beginning(requests)
            digest = beginning.sha256.hex()
            async with self._turn(digest):
                await self._receive(digest, beginning.size_bytes, requests, context)
        except (ProtocolError, ContentRefused, ContentStoreFull) as error:
            status = next(status for kind, status in _STATUS_OF if isinstance(error, kind))
            await context.abort(status, str(error))
        except OSError as error:
            log.warning("a content cannot be stored", reason=str(error))
            text = f"the daemon cannot store contents in {self._store.directory}: {error.strerror or error}"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)

    async def _beginning(self, requests: AsyncIterator[pb.UploadRequest]) -> pb.UploadBeginning:
        try:
            first = await asyncio.wait_for(anext(requests, None), _BEGINNING_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise ProtocolError(f"no beginning arrived within {_BEGINNING_TIMEOUT_S:.0f} s") from None
        if first is None or first.WhichOneof("message") != "beginning":
            raise ProtocolError("an upload begins with the content's digest and size")
        if len(first.beginning.sha256) != _DIGEST_BYTES:
            raise ProtocolError(f"a SHA-256 has {_DIGEST_BYTES} bytes, not {len(first.beginning.sha256)}")
        return first.beginning

    @asynccontextmanager
    async def _turn(self, digest: str) -> AsyncIterator[None]:
        """Allow one upload of each content at a time; a second one then finds the content in the store."""
        turn = self._turns[digest]
        async with turn, self._room:
            yield
        if not turn.locked() and self._turns.get(digest) is turn:
            del self._turns[digest]

    async def _receive(
        self, digest: str, size_bytes: int, requests: AsyncIterator[pb.UploadRequest], context: Context
    ) -> None:
        if not self._store.expect(digest):
            reception = self._store.receive(digest, size_bytes)
            try:
                if not await self._take_chunks(reception, size_bytes, requests, context):
                    return
            finally:
                # Also if the client has disconnected and this call is cancelled.
                await asyncio.shield(self._on_thread(reception.stop))
        await context.write(pb.UploadReply(offset=size_bytes, complete=True))

    async def _take_chunks(
        self,
        reception: IncomingContent,
        size_bytes: int,
        requests: AsyncIterator[pb.UploadRequest],
        context: Context,
    ) -> bool:
        """Write the chunks; return True if the content is complete."""
        offset = await self._on_thread(reception.open)
        await context.write(pb.UploadReply(offset=offset))
        while offset < size_bytes:
            message = await anext(requests, None)
            if message is None:
                return False
            if message.WhichOneof("message") != "chunk":
                raise ProtocolError("after its beginning an upload consists of chunks")
            await self._on_thread(reception.write, message.chunk)
            offset += len(message.chunk)
        await self._on_thread(reception.complete)
        return True

    def _on_thread(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> asyncio.Future[T]:
        assert not named, "an executor passes positional arguments only"
        return asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
