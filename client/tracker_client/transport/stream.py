"""One connection to the daemon: with ``upload_call`` all that uses gRPC and the protocol's messages.

A :class:`Connection` sends what it is given, in order, and puts whatever comes back into the inbox
of its owner, as frozen values tagged with the connection; the last one is :class:`Closed`. It never
raises for what happens on the network. gRPC's own threads pull the requests one at a time, each
when the one before has left, so that what is handed over here is bounded by the owner's window.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from queue import SimpleQueue
from typing import Any

import grpc

from tracker_client.backends.handles import HandlesAnswer
from tracker_client.backends.script_backends import (
    DeliveredConfig,
    DeliveredEnd,
    DeliveredEntry,
    DeliveredRows,
    TakenEntry,
)
from tracker_client.endpoints.endpoint import Endpoint
from tracker_client.settings.metric_options import MetricOptions
from tracker_protocol import PROTOCOL_VERSION, STREAM_METHOD, TOKEN_METADATA_KEY, limits
from tracker_protocol.v1 import tracker_pb2 as pb

CHANNEL_OPTIONS = (
    # Proxies of the environment would take even connections to this host.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", limits.RECEIVE_MAX_BYTES),
    ("grpc.keepalive_time_ms", int(limits.KEEPALIVE_TIME_S * 1000)),
    ("grpc.keepalive_timeout_ms", int(limits.KEEPALIVE_TIMEOUT_S * 1000)),
    ("grpc.http2.max_pings_without_data", 0),
    # Two trackers of one process must not share a connection that one of them may break.
    ("grpc.use_local_subchannel_pool", 1),
)
REFUSALS = frozenset(
    ("UNAUTHENTICATED", "FAILED_PRECONDITION", "ALREADY_EXISTS", "INVALID_ARGUMENT", "PERMISSION_DENIED")
)
"""Status codes by which a daemon says that trying again soon is of no use."""


@dataclass(frozen=True)
class Introduction:
    """What a Hello says that stays the same over all connections of a stream."""

    stream_id: bytes
    launch_key: str
    project: str
    name: str
    ordinal: int
    run_id: str
    rank: int
    world_size: int
    local_rank: int
    rank_source: str
    host: str
    pid: int
    client_version: str
    working_directory: str
    backends: str | None
    outdir: str | None
    primary_rank: int | None
    record_ranks: str | None
    backend_options: str | None
    environment: str
    restarts: int
    item_ranks: str | None = None
    script_backends: tuple[str, ...] = ()
    metrics: MetricOptions = field(default_factory=MetricOptions)


@dataclass(frozen=True)
class Welcomed:
    """The daemon has admitted this stream."""

    run_id: str
    attempt: int
    next_sequence: int
    next_step: int
    flush_interval_s: float
    run_name: str
    outdir: str
    records_items: bool = False
    """Whether the daemon records this rank's items."""
    backends: tuple[str, ...] = ()
    """That the run has."""
    script_backends: tuple[str, ...] = ()
    """Those that are classes of the script, and fed through this stream."""


@dataclass(frozen=True)
class Acknowledged:
    """Everything up to ``sequence`` is durable."""

    sequence: int
    flush_interval_s: float


@dataclass(frozen=True)
class Delivered:
    """Every backend has what was sent."""


@dataclass(frozen=True)
class Noticed:
    """A sentence for the user."""

    text: str


@dataclass(frozen=True)
class Challenged:
    """Another process claims this rank: the daemon asks whether this one lives."""

    nonce: bytes


@dataclass(frozen=True)
class Closed:
    """The connection has ended; ``code`` is gRPC's name of the status."""

    code: str
    details: str

    @property
    def is_refusal(self) -> bool:
        """Whether the daemon does not want this client as it is."""
        return self.code in REFUSALS


Reply = Welcomed | Acknowledged | Delivered | Noticed | DeliveredEntry | HandlesAnswer | Challenged | Closed


class Connection:
    """One call of the Stream method at one address.

    Raises:
        RuntimeError: no thread could be started for it.
    """

    def __init__(
        self, address: str, endpoint: Endpoint, deliver: Callable[[Connection, Reply], None]
    ) -> None:
        self.address = address
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        self._deliver = deliver
        self._channel = open_channel(address, endpoint.tls_root_pem)
        method: Any = self._channel.stream_stream(STREAM_METHOD, None, pb.DaemonMessage.FromString)
        metadata = ((TOKEN_METADATA_KEY, f"Bearer {endpoint.token}"),) if endpoint.token else None
        try:
            self._call: Any = method(self._requests(), metadata=metadata)
            threading.Thread(target=self._read, name="tracker-replies", daemon=True).start()
        except BaseException:  # whatever it was: clean up, and let it go on
            self.close()
            raise

    def end_requests(self) -> None:
        """Nothing more will be sent; the daemon ends the stream once it has acknowledged everything."""
        self._outgoing.put(None)

    def close(self) -> None:
        """End the connection; what it still delivers is to be ignored."""
        self._outgoing.put(None)
        self._channel.close()

    def hello(
        self, introduction: Introduction, *, acknowledged: int, oldest_held: int, names: list[str]
    ) -> None:
        """Send the first message."""
        self._put(pb.ClientMessage(hello=_hello(introduction, acknowledged, oldest_held, names)))

    def batch(self, sequence: int, body: bytes) -> None:
        """Send one batch."""
        self._put(pb.ClientMessage(batch=pb.Batch(sequence=sequence, crc32=zlib.crc32(body), body=body)))

    def gap(self, first: int, last: int, points: int) -> None:
        """Declare that sequences will never come."""
        self._put(pb.ClientMessage(gap=pb.Gap(from_sequence=first, to_sequence=last, points=points)))

    def heartbeat(self, flushed_through: int) -> None:
        """Say that everything logged is in the batches up to ``flushed_through``."""
        self._put(pb.ClientMessage(heartbeat=pb.Heartbeat(flushed_through=flushed_through)))

    def await_delivery(self) -> None:
        """Ask for a Delivered."""
        self._put(pb.ClientMessage(await_delivery=pb.AwaitDelivery()))

    def taken(self, taken: TakenEntry) -> None:
        """Answer for a class of the script."""
        self._put(
            pb.ClientMessage(
                backend_taken=pb.BackendTaken(
                    backend=taken.backend, epoch=taken.epoch, entry=taken.entry,
                    refused_records=taken.refused_records, problem=taken.problem, closed=taken.closed,
                )
            )
        )  # fmt: skip

    def ask_handles(self, backend: str) -> None:
        """Ask for a backend's handles."""
        self._put(pb.ClientMessage(handles_request=pb.HandlesRequest(backend=backend)))

    def answer(self, challenged: Challenged) -> None:
        """Say that this process lives."""
        self._put(pb.ClientMessage(challenge_answer=pb.ChallengeAnswer(nonce=challenged.nonce)))

    def _put(self, message: pb.ClientMessage) -> None:
        self._outgoing.put(message.SerializeToString())

    def _requests(self) -> Iterator[bytes]:
        while (message := self._outgoing.get()) is not None:
            yield message

    def _read(self) -> None:
        closed = Closed("OK", "the daemon ended the stream")
        try:
            for message in self._call:
                reply = _reply(message)
                if reply is not None:
                    self._deliver(self, reply)
        except grpc.RpcError as error:
            closed = Closed(code_name(error), self._call.details() or "")
        finally:
            self._outgoing.put(None)  # lets gRPC's own thread end
            self._deliver(self, closed)


def open_channel(address: str, tls_root_pem: bytes | None) -> grpc.Channel:
    """A channel of its own to a daemon."""
    if tls_root_pem is None or address.startswith("unix:"):
        return grpc.insecure_channel(address, CHANNEL_OPTIONS)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(tls_root_pem), CHANNEL_OPTIONS)


def code_name(error: grpc.RpcError) -> str:
    """GRPC's name of the status that a call ended with."""
    # What a call raises is also the call, with its status; the types do not say so.
    code = getattr(error, "code", None)
    return str(code().name) if code is not None else "UNKNOWN"


def _hello(introduction: Introduction, acknowledged: int, oldest_held: int, names: list[str]) -> pb.Hello:
    who = introduction
    return pb.Hello(
        protocol_version=PROTOCOL_VERSION,
        stream_id=who.stream_id,
        last_acknowledged=acknowledged,
        oldest_held=oldest_held,
        names=names,
        launch=pb.Launch(
            key=who.launch_key, project=who.project, name=who.name, ordinal=who.ordinal, run_id=who.run_id
        ),
        process=pb.Process(
            rank=who.rank,
            world_size=who.world_size,
            local_rank=who.local_rank,
            host=who.host,
            pid=who.pid,
            rank_source=who.rank_source,
            client_version=who.client_version,
            working_directory=who.working_directory,
            environment=who.environment,
            restarts=who.restarts,
        ),
        options=pb.RunOptions(
            backends=who.backends,
            outdir=who.outdir,
            primary_rank=who.primary_rank,
            record_ranks=who.record_ranks,
            backend_options=who.backend_options,
            item_ranks=who.item_ranks,
            metrics=pb.MetricSettings(**asdict(who.metrics)),
        ),
        script_backends=who.script_backends,
        answers_challenges=True,
    )


def _reply(message: pb.DaemonMessage) -> Reply | None:
    """The message as a value; None for kinds that a newer daemon may send."""
    kind = message.WhichOneof("message")
    if kind == "welcome":
        welcome = message.welcome
        return Welcomed(
            welcome.run_id, welcome.attempt, welcome.next_sequence, welcome.next_step,
            welcome.flush_interval_ms / 1000, welcome.run_name, welcome.outdir, welcome.records_items,
            tuple(welcome.backends), tuple(welcome.script_backends),
        )  # fmt: skip
    if kind == "acknowledgement":
        acknowledgement = message.acknowledgement
        return Acknowledged(acknowledgement.sequence, acknowledgement.flush_interval_ms / 1000)
    if kind == "delivered":
        return Delivered()
    if kind == "backend_entry":
        return _fed(message.backend_entry)
    if kind == "backend_handles":
        told = message.backend_handles
        return HandlesAnswer(told.backend, dict(told.handles), told.problem)
    if kind == "challenge":
        return Challenged(message.challenge.nonce)
    return Noticed(message.notice.text) if kind == "notice" else None


def _fed(entry: pb.BackendEntry) -> DeliveredEntry:
    kind = entry.WhichOneof("content")
    content: DeliveredRows | DeliveredConfig | DeliveredEnd | None = None
    if kind == "records":
        records = entry.records
        texts = tuple((text.row, text.column, text.value) for text in records.texts)
        content = DeliveredRows(
            records.first_row, tuple(records.columns), records.steps, records.values, records.valid, texts
        )
    elif kind == "config":
        content = DeliveredConfig(entry.config)
    elif kind == "end":
        content = DeliveredEnd(1 if entry.end.status == "FAILED" else 0)
    return DeliveredEntry(entry.backend, entry.epoch, entry.entry, entry.more, content)
