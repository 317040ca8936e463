"""A lane: one stream to the root, kept connected, on which the batches of one run go up in order.

The batches have their numbers from who delivers them, who knows from the committed cursor which come next.
What the root has already is not sent again; what it has not acknowledged when the connection breaks is
asked for again by being delivered again.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc.aio
import structlog

from tracker_daemon.errors import ClientRefused, JournalError, SettingsError, UpstreamUnavailable
from tracker_daemon.upstream.root import Root, RootConnection
from tracker_protocol import limits
from tracker_protocol.backoff import Backoff
from tracker_protocol.v1 import tracker_pb2 as pb

log = structlog.get_logger(__name__)
MakeHello = Callable[[int], Awaitable[pb.Hello]]
"""The Hello of the next connection, given the highest sequence that was acknowledged."""


@dataclass(slots=True)
class Mark:
    """The highest sequence of a stream that this daemon's journal accounts for, sent or not."""

    highest: int = 0


class Lane:
    """On the event loop. ``take`` gets all that comes but acknowledgements; ``connected``: it may send.

    ``mark`` is of its stream. A root that has more than that has it of a journal that was there before this
    one was, as after a power loss on a disk that lied: ``ahead`` is told how far, and this lane stays
    unconnected, since what it would send the root would take for what it has.
    """

    def __init__(
        self,
        root: Root,
        acknowledged: int,
        make_hello: MakeHello,
        take: Callable[[pb.DaemonMessage], None],
        connected: Callable[[], None],
        mark: Mark,
        ahead: Callable[[int], None],
    ) -> None:
        self._root = root
        self._make_hello = make_hello
        self._take = take
        self._on_connected = connected
        self._mark = mark
        self._ahead = ahead
        self._backoff = Backoff(limits.RECONNECT_BACKOFF_MIN_S, limits.RECONNECT_BACKOFF_MAX_S)
        self._call: Any = None
        self._writing = asyncio.Lock()
        self._progress = asyncio.Condition()
        self._problem = f"the daemon to forward to ({root}) is not connected yet"
        self._tried = asyncio.Event()
        self.acknowledged = acknowledged
        self.flush_interval_s = limits.FLUSH_INTERVAL_MIN_S
        self.root_learns = False
        """Whether the root has to know of idle ranks' flushes."""
        self.connection: RootConnection | None = None
        """While it is connected."""
        self._task = asyncio.create_task(self._keep_connected())

    # ---- for who delivers ------------------------------------------------------------------------

    async def deliver(self, first: int, bodies: Sequence[bytes]) -> None:
        """Send ``bodies``, the first of which has the sequence ``first``; returns once all are acknowledged.

        Raises:
            UpstreamUnavailable: the connection is not there, or breaks meanwhile.
        """
        last = first + len(bodies) - 1
        self._mark.highest = max(self._mark.highest, last)
        for sequence, body in enumerate(bodies, first):
            if sequence > self.acknowledged:
                batch = pb.Batch(sequence=sequence, crc32=zlib.crc32(body), body=body)
                await self._write(pb.ClientMessage(batch=batch))
        async with self._progress:
            await self._progress.wait_for(lambda: self._call is None or self.acknowledged >= last)
        if self.acknowledged < last:
            raise UpstreamUnavailable(self._problem)

    async def tried(self) -> None:
        """Returns once it is connected, has failed to be for the first time, or has ended."""
        await self._tried.wait()

    def send(self, message: pb.ClientMessage) -> None:
        """Send something that is of use now or never."""
        if self._call is not None:
            task = asyncio.create_task(self._write(message))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _write(self, message: pb.ClientMessage) -> None:
        async with self._writing:
            call = self._call
            if call is None:
                raise UpstreamUnavailable(self._problem)
            try:
                await call.write(message)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                # Why it ended, the reader is told.
                raise UpstreamUnavailable(self._problem) from None
            except asyncio.CancelledError:
                if self._call is call:
                    raise
                # It was the call that was cancelled, by the reader, and not who writes.
                raise UpstreamUnavailable(self._problem) from None

    def end(self) -> None:
        """End the stream, and connect no more."""
        self._tried.set()
        self._task.cancel()

    async def close(self) -> None:
        """:meth:`end`, and wait until it has ended."""
        self.end()
        with suppress(asyncio.CancelledError):
            await self._task

    # ---- the connection --------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            try:
                async with self._root.connection() as connection:
                    call = connection.stream()
                    try:
                        failures = await self._begin(connection, call)
                        while (message := await call.read()) is not grpc.aio.EOF:
                            await self._receive(message)
                    finally:
                        self.connection = self._call = None
                        call.cancel()
                self._problem = f"the daemon to forward to ({self._root}) has ended the stream"
            except (UpstreamUnavailable, ClientRefused, SettingsError) as error:
                if str(error) != self._problem:
                    log.warning("forwarding has to wait", reason=str(error))
                self._problem = str(error)
            except JournalError:
                return  # this daemon is ending
            # The task's outermost frame: whatever it was, what is journalled has to get there in the end.
            except Exception as error:
                log.exception("a connection to the daemon to forward to failed in a way it should not")
                self._problem = f"{type(error).__name__}: {error}"
            finally:
                await self._disconnected()
            failures += 1
            await asyncio.sleep(self._backoff.wait_s(failures))

    async def _begin(self, connection: RootConnection, call: Any) -> int:
        """Introduce this stream; how many failures there were since it last was connected, which is none."""
        hello = await self._make_hello(self.acknowledged)
        with suppress(asyncio.InvalidStateError):  # it has ended already, and to read it tells why
            await call.write(pb.ClientMessage(hello=hello))
        first = await call.read()
        if first is grpc.aio.EOF or first.WhichOneof("message") != "welcome":
            raise UpstreamUnavailable(f"what answers at {connection.address} is no daemon to forward to")
        self._root.worked(connection.address)
        has = first.welcome.next_sequence - 1
        if has > max(self._mark.highest, self.acknowledged):
            self._ahead(has)
            raise UpstreamUnavailable("the daemon above has more of this node than its journal has")
        await self._note(first.welcome.next_sequence - 1, first.welcome.flush_interval_ms)
        self.connection, self._call = connection, call
        self._tried.set()
        self._problem = f"the connection to the daemon to forward to ({self._root}) broke"
        self._on_connected()
        return 0

    async def _receive(self, message: pb.DaemonMessage) -> None:
        if message.WhichOneof("message") == "acknowledgement":
            told = message.acknowledgement
            self.root_learns = told.learning
            await self._note(told.sequence, told.flush_interval_ms)
        else:
            self._take(message)

    async def _note(self, acknowledged: int, flush_interval_ms: int) -> None:
        self.flush_interval_s = flush_interval_ms / 1000
        async with self._progress:
            self.acknowledged = max(self.acknowledged, acknowledged)
            self._progress.notify_all()

    async def _disconnected(self) -> None:
        self.connection = self._call = None
        self._tried.set()
        async with self._progress:
            self._progress.notify_all()

    @property
    def problem(self) -> str:
        """Why it is not connected; "" while it is."""
        return "" if self._call is not None else self._problem
