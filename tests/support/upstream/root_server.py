"""A root in this process, which speaks the protocol, and a link to it."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any

import grpc
import grpc.aio
import pytest

from tracker_client.endpoints.endpoint import Endpoint, FixedEndpoint
from tracker_daemon.backends.root import LanePosition
from tracker_daemon.contents.store import ContentStore
from tracker_daemon.ingest.uploads import UploadService
from tracker_daemon.upstream.lane_stream import JournalledSequence
from tracker_daemon.upstream.root import Root
from tracker_daemon.upstream.root_link import RootLink, ThisNode
from tracker_protocol import SERVICE, TOKEN_METADATA_KEY, limits
from tracker_protocol.v1 import tracker_pb2 as pb

PATIENCE_S = 20.0
NODE = ThisNode(b"n" * 16, "node7", 77)
OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]


async def until(condition: Callable[[], object], what: str) -> None:
    """Return once ``condition()`` is true; fail, naming ``what``, when it does not become so.

    The condition may be a coroutine function.
    """
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not (await answer if isawaitable(answer := condition()) else answer):
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"waited {PATIENCE_S:.0f} s in vain: {what}")
        await asyncio.sleep(0.002)


@dataclass(eq=False)
class Connection:
    """One call of the Stream method, as the root sees it."""

    hello: pb.Hello
    context: Any
    token: str = ""
    messages: list[pb.ClientMessage] = field(default_factory=list)
    """All that came after the Hello."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """gRPC takes one write at a time, and both the root and the test write."""
    ended: bool = False
    """Whether the call is over, whoever ended it."""
    ending: tuple[grpc.StatusCode, str] | None = None
    due: int = 1
    """The sequence that comes next here, durable or not."""
    on_durable: Callable[[int], None] = print

    @property
    def sequences(self) -> list[int]:
        return [m.batch.sequence for m in self.messages if m.HasField("batch")]

    @property
    def bodies(self) -> list[bytes]:
        return [m.batch.body for m in self.messages if m.HasField("batch")]

    def of(self, kind: str) -> list[Any]:
        """The messages of one kind, in order."""
        return [getattr(m, kind) for m in self.messages if m.WhichOneof("message") == kind]

    async def send(self, **message: Any) -> None:
        async with self.writing:
            await self.context.write(pb.DaemonMessage(**message))

    async def acknowledge(self, sequence: int, **more: Any) -> None:
        """What the root acknowledges, it has."""
        self.on_durable(sequence)
        told = pb.Acknowledgement(**{"sequence": sequence, "flush_interval_ms": 200, **more})
        await self.send(acknowledgement=told)

    def break_off(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, details: str = "gone") -> None:
        """End the call so; with OK it ends as one does that has come to its end."""
        self.ending = code, details
        self.over.set()


class RootServer:
    """Plays the root. ``refusal`` is what a Hello is answered with instead of a Welcome."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.hellos: list[pb.Hello] = []
        self.next_sequence: dict[bytes, int] = {}
        """By stream: what is due next on another connection, since all before it is durable."""
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.answers_hello = True
        self.acknowledges = True
        self.keeps_unacknowledged = False
        """Whether what comes is durable though it is not acknowledged."""
        self.reads = True
        self.uploads: UploadService | None = None
        self.admit: Callable[[pb.AdmitRequest, Any], Awaitable[pb.AdmitReply]] | None = None
        """What Admit does; None: this is a daemon that does not know the method."""
        self.credentials: grpc.ServerCredentials | None = None
        self.server: grpc.aio.Server | None = None
        self.address = ""

    async def start(self, address: str = "127.0.0.1:0") -> RootServer:
        server = grpc.aio.server(options=OPTIONS)
        handlers = {
            "Stream": grpc.stream_stream_rpc_method_handler(
                self._stream, pb.ClientMessage.FromString, pb.DaemonMessage.SerializeToString
            ),
            "Admit": grpc.unary_unary_rpc_method_handler(
                self._admit, pb.AdmitRequest.FromString, pb.AdmitReply.SerializeToString
            ),
        }
        if self.uploads is not None:
            handlers["Upload"] = grpc.stream_stream_rpc_method_handler(
                self.uploads.upload, pb.UploadRequest.FromString, pb.UploadReply.SerializeToString
            )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        if self.credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, self.credentials)
        self.address = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        await server.start()
        self.server = server
        return self

    async def stop(self) -> None:
        if self.server is not None:
            server, self.server = self.server, None
            await server.stop(0)

    def root(self, token: str | None = "the root's own token") -> Root:
        """What leads here."""
        return Root(FixedEndpoint(Endpoint((self.address,), token)))

    @property
    def connection(self) -> Connection:
        """The latest."""
        return self.connections[-1]

    async def connected(self, count: int = 1) -> Connection:
        """The connection with that number, once it is there."""
        await until(lambda: len(self.connections) >= count, f"connection {count}")
        return self.connections[count - 1]

    async def _admit(self, request: pb.AdmitRequest, context: Any) -> pb.AdmitReply:
        if self.admit is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")
            raise AssertionError("abort raises")
        return await self.admit(request, context)

    async def _stream(self, requests: Any, context: Any) -> None:
        first = await anext(requests, None)
        if first is None:
            return
        self.hellos.append(first.hello)
        if self.refusal is not None:
            await context.abort(*self.refusal)
        if not self.answers_hello:
            return
        given = dict(context.invocation_metadata()).get(TOKEN_METADATA_KEY, "")
        connection = Connection(first.hello, context, str(given))
        stream = first.hello.stream_id

        def durable(sequence: int) -> None:
            self.next_sequence[stream] = max(self.next_sequence[stream], sequence + 1)

        connection.on_durable = durable
        connection.due = self.next_sequence.setdefault(stream, first.hello.last_acknowledged + 1)
        self.connections.append(connection)
        await connection.send(welcome=pb.Welcome(next_sequence=connection.due, flush_interval_ms=700))
        reading = asyncio.create_task(self._read(requests, connection))
        try:
            await connection.over.wait()
        finally:
            connection.ended = True
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
        code, details = connection.ending or (grpc.StatusCode.INTERNAL, "the test ended it")
        if code is not grpc.StatusCode.OK:
            await context.abort(code, details)

    async def _read(self, requests: Any, connection: Connection) -> None:
        if not self.reads:
            return
        async for message in requests:
            connection.messages.append(message)
            if message.HasField("batch"):
                await self.take(message.batch, connection)
        connection.break_off(grpc.StatusCode.OK, "")

    async def take(self, batch: pb.Batch, connection: Connection) -> None:
        """As a daemon does: in order and whole."""
        if batch.sequence != connection.due or batch.crc32 != zlib.crc32(batch.body):
            due = connection.due
            connection.break_off(grpc.StatusCode.DATA_LOSS, f"{batch.sequence} came where {due} was due")
            return
        connection.due += 1
        if self.keeps_unacknowledged:
            connection.on_durable(batch.sequence)
        if self.acknowledges:
            await connection.acknowledge(batch.sequence)


_FILLING = "f" * 64


def fill(store: ContentStore) -> None:
    """Leave no room in the root's store."""
    store.note_received(_FILLING, limits.CONTENTS_MAX_BYTES)


def make_room(store: ContentStore) -> None:
    """Remove from the store what filled it, as after its delivery."""
    store.note_journalled([_FILLING])
    assert store.remove([_FILLING]) == 1


class Tied:
    """A link of one run to the root, with its lane for batches open."""

    def __init__(self, server, *, epoch=1, sequence=0):
        self.server = server
        self.names = ["loss", "lr"]
        self.took = []
        self.connected = []
        """An entry for each connection that a lane has begun to use."""
        self.root = server.root()
        self.link = RootLink(
            self.root,
            NODE,
            "run-1",
            self.dictionary,
            self.took.append,
            self.connected.append,
            lambda *_: JournalledSequence(1 << 40),
            pytest.fail,
        )
        self.lane = self.link.lane(LanePosition(epoch, sequence))

    async def dictionary(self):
        return self.names

    async def ready(self, count=1):
        connection = await self.server.connected(count)
        await until(lambda: len(self.connected) >= count, f"the lanes to have begun {count} connections")
        return connection

    async def reconnected(self, count):
        """The connection that takes the place of the latest one, which breaks."""
        self.server.connection.break_off()
        return await self.server.connected(count)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.link.close()


@dataclass
class Play:
    """Runs a scenario, a coroutine over a root that is started and stopped with it."""

    make: Callable[[], RootServer] = RootServer

    def __call__(self, scenario: Callable[[RootServer], Awaitable[None]]) -> None:
        async def whole() -> None:
            server = await self.make().start()
            try:
                await asyncio.wait_for(scenario(server), 2 * PATIENCE_S)
            finally:
                await server.stop()

        asyncio.run(whole())
