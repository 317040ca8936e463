"""The stream of a lane: one stream to the root, kept connected, on which one run's batches are sent in order.

The caller of :meth:`LaneStream.deliver` numbers the batches: it knows from its committed cursor which number
is next. A batch that the root already has is not sent again. If the connection breaks, the caller delivers
the unacknowledged batches again.
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
"""Returns the Hello of the next connection, given the highest acknowledged sequence."""


@dataclass(slots=True)
class JournalledSequence:
    """The highest sequence of a stream that this daemon's journal accounts for, sent or not."""

    highest: int = 0


class LaneStream:
    """The stream of one lane. On the event loop.

    If the root has more batches than ``journalled``, an earlier state of this journal sent them. That
    happens after a power loss, on a disk that reported data as written too early. The lane then stays
    unconnected: the root would take new batches for those that it has.

    Args:
        root: the root.
        acknowledged: the highest sequence that the root is known to have.
        make_hello: returns the Hello of the next connection.
        take: receives each message of the root except acknowledgements.
        on_connected: called when the lane may send.
        journalled: the journalled sequence of this lane's stream.
        report_lost_journal: called with the root's highest sequence if that exceeds ``journalled``.
        backoff: the waits between attempts to connect; by default those of a client.
    """

    def __init__(
        self,
        root: Root,
        acknowledged: int,
        make_hello: MakeHello,
        take: Callable[[pb.DaemonMessage], None],
        on_connected: Callable[[], None],
        journalled: JournalledSequence,
        report_lost_journal: Callable[[int], None],
        backoff: Backoff | None = None,
    ) -> None:
        self._root = root
        self._make_hello = make_hello
        self._take = take
        self._on_connected = on_connected
        self._journalled = journalled
        self._report_lost_journal = report_lost_journal
        self._backoff = backoff or Backoff(limits.RECONNECT_BACKOFF_MIN_S, limits.RECONNECT_BACKOFF_MAX_S)
        self._call: Any = None
        self._writing = asyncio.Lock()
        self._progress = asyncio.Condition()
        self._problem = f"the root ({root}) is not connected yet"
        self._attempted = asyncio.Event()
        self.acknowledged = acknowledged
        self.flush_interval_s = limits.FLUSH_INTERVAL_MIN_S
        self.root_learns = False
        """True if the root needs to know of flushes by idle ranks."""
        self.connection: RootConnection | None = None
        """The connection; None while there is none."""
        self._task = asyncio.create_task(self._keep_connected())

    # ---- sending ---------------------------------------------------------------------------------

    async def deliver(self, first: int, bodies: Sequence[bytes]) -> None:
        """Send ``bodies``, numbered from ``first``; return once the root has acknowledged all.

        Raises:
            UpstreamUnavailable: there is no connection, or it breaks meanwhile.
        """
        last = first + len(bodies) - 1
        self._journalled.highest = max(self._journalled.highest, last)
        for sequence, body in enumerate(bodies, first):
            if sequence > self.acknowledged:
                batch = pb.Batch(sequence=sequence, crc32=zlib.crc32(body), body=body)
                await self._write(pb.ClientMessage(batch=batch))
        async with self._progress:
            await self._progress.wait_for(lambda: self._call is None or self.acknowledged >= last)
        if self.acknowledged < last:
            raise UpstreamUnavailable(self._problem)

    async def wait_for_first_attempt(self) -> None:
        """Return once the first attempt to connect has succeeded or failed, or the lane has ended."""
        await self._attempted.wait()

    def send(self, message: pb.ClientMessage) -> None:
        """Send a message if the lane is connected; else drop it, since it would be stale later."""
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
                # The reader of the call receives the reason for its end.
                raise UpstreamUnavailable(self._problem) from None
            except asyncio.CancelledError:
                if self._call is call:
                    raise
                # The reader cancelled the call; this task itself was not cancelled.
                raise UpstreamUnavailable(self._problem) from None

    def end(self) -> None:
        """End the stream and connect no more."""
        self._attempted.set()
        self._task.cancel()

    async def close(self) -> None:
        """End the stream, and wait until it has ended."""
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
                        await self._begin(connection, call)
                        failures = 0
                        while (message := await call.read()) is not grpc.aio.EOF:
                            await self._receive(message)
                    finally:
                        self.connection = self._call = None
                        call.cancel()
                self._problem = f"the root ({self._root}) has ended the stream"
            except (UpstreamUnavailable, ClientRefused, SettingsError) as error:
                if str(error) != self._problem:
                    log.warning("forwarding has to wait", reason=str(error))
                self._problem = str(error)
            except JournalError:
                return  # this daemon is ending
            # The task's outermost frame: after any error, the journalled batches must still reach the root.
            except Exception as error:
                log.exception("a connection to the root failed in an unforeseen way")
                self._problem = f"{type(error).__name__}: {error}"
            finally:
                await self._disconnected()
            failures += 1
            await asyncio.sleep(self._backoff.wait_s(failures))

    async def _begin(self, connection: RootConnection, call: Any) -> None:
        """Send the Hello and receive the Welcome."""
        hello = await self._make_hello(self.acknowledged)
        with suppress(asyncio.InvalidStateError):  # the call has ended already; the read raises the reason
            await call.write(pb.ClientMessage(hello=hello))
        first = await call.read()
        if first is grpc.aio.EOF or first.WhichOneof("message") != "welcome":
            raise UpstreamUnavailable(f"the service at {connection.address} is no root: it sent no Welcome")
        self._root.worked(connection.address)
        root_has = first.welcome.next_sequence - 1
        if root_has > max(self._journalled.highest, self.acknowledged):
            self._report_lost_journal(root_has)
            raise UpstreamUnavailable("the root has more batches of this node than the node's journal")
        await self._note(root_has, first.welcome.flush_interval_ms)
        self.connection, self._call = connection, call
        self._attempted.set()
        self._problem = f"the connection to the root ({self._root}) broke"
        self._on_connected()

    async def _receive(self, message: pb.DaemonMessage) -> None:
        if message.WhichOneof("message") == "acknowledgement":
            acknowledgement = message.acknowledgement
            self.root_learns = acknowledgement.learning
            await self._note(acknowledgement.sequence, acknowledgement.flush_interval_ms)
        else:
            self._take(message)

    async def _note(self, acknowledged: int, flush_interval_ms: int) -> None:
        self.flush_interval_s = flush_interval_ms / 1000
        async with self._progress:
            self.acknowledged = max(self.acknowledged, acknowledged)
            self._progress.notify_all()

    async def _disconnected(self) -> None:
        self.connection = self._call = None
        self._attempted.set()
        async with self._progress:
            self._progress.notify_all()

    @property
    def problem(self) -> str:
        """The reason for which the lane is not connected; "" if it is."""
        return "" if self._call is not None else self._problem
