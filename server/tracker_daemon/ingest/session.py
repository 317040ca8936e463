"""One connection of one stream, from the Hello to the last acknowledgement."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from tracker_daemon.aggregation.values.batch import DecodedBatch, Exiting
from tracker_daemon.errors import MalformedBatch, ProtocolError
from tracker_daemon.ingest.admission_commit import AdmissionCommit
from tracker_daemon.journal.event import SEQUENCE_MAX, EventKind, Gap
from tracker_daemon.journal.store import Journal
from tracker_daemon.recording.recorder import Recorder, Submission
from tracker_daemon.runs.run import Admission, Stream
from tracker_daemon.wire.batches import decode_batch
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb


class BrokenStream(ProtocolError):
    """A message is damaged or out of order; the client should reconnect and resend."""


_OTHERS = frozenset({"await_delivery", "backend_taken", "handles_request", "warning"})


@dataclass(frozen=True, slots=True)
class SessionContext:
    """The parts that all sessions share; ``flush_interval_ms`` returns the milliseconds between batches."""

    recorder: Recorder
    loop: asyncio.AbstractEventLoop
    flush_interval_ms: Callable[[], int]
    on_exiting: Callable[[Stream, Exiting], None] = lambda *_: None
    """Called for a rank whose script has ended without ``finish()``."""
    on_delivery_awaited: Callable[[Session, pb.AwaitDelivery], None] = lambda *_: None
    """Called if a rank waits until its values are delivered."""
    on_warning: Callable[[Stream, str], None] = lambda _, __: None
    """Receives a stream's sentences for the user."""


class Session:
    """Turns a connection's messages into submissions, and commits into acknowledgements."""

    def __init__(
        self,
        admission: Admission,
        context: SessionContext,
    ) -> None:
        self.stream = admission.stream
        self._admission_commit = AdmissionCommit(admission, context.recorder, context.loop)
        self._recorder = context.recorder
        self._flush_interval_ms = context.flush_interval_ms
        self._on_exiting = context.on_exiting
        self._on_delivery_awaited = context.on_delivery_awaited
        self._on_warning = context.on_warning
        self._changed = asyncio.Event()
        self._committed = self.stream.next_sequence - 1
        self._acknowledged = self._committed
        self._outgoing: list[pb.DaemonMessage] = []
        self.on_taken: Callable[[pb.BackendTaken], None] = _ignore
        """Receives the answers of the script's classes."""
        self.asked_handles: dict[str, pb.BackendHandles] = {}
        """The backends whose handles the client asked for, with the last answer."""
        self._closing = False
        self._superseded = False

    # ---- admission -------------------------------------------------------------------------------

    async def welcome(
        self, hello: pb.Hello, *, new_backends: Mapping[str, bytes], script_backends: list[str], version: str
    ) -> pb.DaemonMessage:
        """Commit the admission; return the Welcome.

        The run gets a cursor for each of ``new_backends``, with the state given there.
        """
        stream, run = self.stream, self.stream.run
        continuation = await self._admission_commit.run(hello, new_backends)
        self._committed = self._acknowledged = continuation.next_sequence - 1
        welcome = pb.Welcome(
            run_id=run.run_id,
            attempt=stream.attempt,
            next_sequence=continuation.next_sequence,
            next_step=continuation.next_step,
            flush_interval_ms=self._flush_interval_ms(),
            daemon_version=version,
            run_name=run.row.name,
            outdir=run.options.outdir,
            records_items=run.live.rules.records_items(stream.rank),
            backends=run.backends,
            script_backends=script_backends,
        )
        for sentence in stream.rejections:
            self.send_notice(sentence)
        stream.rejections.clear()
        return pb.DaemonMessage(welcome=welcome)

    # ---- incoming --------------------------------------------------------------------------------

    def take(self, message: pb.ClientMessage) -> None:
        """Handle one message after the Hello.

        Raises:
            BrokenStream: the message is damaged or out of order.
            ProtocolError: the message is not allowed here.
        """
        if self._superseded:
            return  # the client sends the message again on its new connection
        kind = message.WhichOneof("message")
        self.stream.note_contact(message.challenge_answer.nonce if kind == "challenge_answer" else None)
        if kind == "batch":
            self._take_batch(message.batch)
        elif kind == "heartbeat":
            self._take_heartbeat(message.heartbeat)
        elif kind == "gap":
            self._take_gap(message.gap)
        elif kind in _OTHERS:
            self._take_other(kind, message)
        elif kind != "challenge_answer":
            raise ProtocolError(f"a {kind or 'nameless'} message is not allowed after the Hello")

    def _take_other(self, kind: str, message: pb.ClientMessage) -> None:
        if kind == "await_delivery":
            self._on_delivery_awaited(self, message.await_delivery)
        elif kind == "backend_taken":
            self.on_taken(message.backend_taken)
        elif kind == "warning":
            self._on_warning(self.stream, message.warning.text[: limits.WARNING_MAX_CHARACTERS])
        elif message.handles_request.backend in self.stream.run.backends:
            self.asked_handles.setdefault(message.handles_request.backend, pb.BackendHandles())

    def _take_batch(self, batch: pb.Batch) -> None:
        stream = self.stream
        if batch.sequence < stream.next_sequence:
            stream.duplicates += 1
            self._changed.set()
            return
        if batch.sequence > stream.next_sequence:
            raise BrokenStream(f"batch {batch.sequence} arrived when {stream.next_sequence} was due")
        if zlib.crc32(batch.body) != batch.crc32:
            raise BrokenStream(f"batch {batch.sequence} does not match its checksum")
        _check_sequence(batch.sequence)
        try:
            decoded = self._decode(batch.body)
        except MalformedBatch as error:
            self._submit(EventKind.REJECTED, batch.sequence, batch.sequence, str(error).encode())
            stream.rejections.append(
                f"the daemon cannot decode what this rank has sent ({error}); the values, tables or images "
                "of this batch are not recorded"
            )
            # The names of this batch are unknown now; the next Hello has the whole dictionary.
            raise BrokenStream(f"batch {batch.sequence} is rejected: {error}") from error
        stream.names_known += len(decoded.names)
        ends = self._ends(decoded)
        for stream_id, end in ends.items():
            self._note_end(stream.run.streams[stream_id], end)
        submission = Submission(
            stream.run.live, EventKind.BATCH, stream.stream_id, batch.sequence, batch.body, decoded,
            committed=self._on_committed,
        )  # fmt: skip
        if ends:
            submission.prepare = partial(_note_ends, ends)
        self._recorder.submit(submission)
        stream.next_sequence += 1

    def _ends(self, decoded: DecodedBatch) -> dict[bytes, DecodedBatch]:
        """Return the streams that end with this batch, with their ranks' last batches."""
        return {self.stream.stream_id: decoded} if decoded.ends else {}

    def _note_end(self, stream: Stream, end: DecodedBatch) -> None:
        stream.note_end(end)
        if end.exiting is not None and end.finish is None:
            self._on_exiting(stream, end.exiting)

    def _decode(self, body: bytes) -> DecodedBatch:
        known = self.stream.names_known
        decoded = decode_batch(body, known)
        if known + len(decoded.names) > limits.METRICS_PER_RUN_MAX:
            raise MalformedBatch(f"the stream names more than {limits.METRICS_PER_RUN_MAX} metrics")
        if self._has_foreign(decoded):
            raise MalformedBatch("a rank forwards nothing, and a node's daemon logs no values of its own")
        if decoded.dropped_points > limits.DROPPED_POINTS_MAX:
            raise MalformedBatch(f"{decoded.dropped_points} values cannot have been dropped")
        return decoded

    def _has_foreign(self, decoded: DecodedBatch) -> bool:
        """Return True if the batch has fields that only the other kind of stream may send."""
        return decoded.forwarded is not None or decoded.lost

    def _take_gap(self, gap: pb.Gap) -> None:
        stream = self.stream
        if gap.from_sequence <= gap.to_sequence < stream.next_sequence:
            stream.duplicates += 1
            self._changed.set()
            return
        if gap.from_sequence != stream.next_sequence or gap.to_sequence < gap.from_sequence:
            raise BrokenStream(
                f"a gap from {gap.from_sequence} to {gap.to_sequence} arrived "
                f"when {stream.next_sequence} was due"
            )
        _check_sequence(gap.to_sequence)
        if gap.points > limits.DROPPED_POINTS_MAX:
            raise ProtocolError(f"a gap of {gap.points} values is not possible")
        payload = Gap(gap.to_sequence, gap.points).to_bytes()
        self._submit(EventKind.GAP, gap.from_sequence, gap.to_sequence, payload)

    def _submit(self, kind: EventKind, sequence: int, through: int, payload: bytes) -> None:
        """Submit an event for the sequences from ``sequence`` to ``through``."""
        stream = self.stream
        self._recorder.submit(
            Submission(
                stream.run.live,
                kind,
                stream.stream_id,
                sequence,
                payload,
                committed=lambda _: self._on_committed(through),
            )
        )
        stream.next_sequence = through + 1

    def _take_heartbeat(self, heartbeat: pb.Heartbeat) -> None:
        stream = self.stream
        # Flushes are needed only while the run learns who reports which metric.
        if stream.run.live.view.learning and heartbeat.flushed_through < stream.next_sequence:
            self._recorder.submit(Submission(stream.run.live, EventKind.FLUSHED, stream.stream_id))

    # ---- outgoing --------------------------------------------------------------------------------

    def _on_committed(self, sequence: int) -> None:
        # On the recorder's thread. The event loop wakes all sessions once a tick.
        self._committed = max(self._committed, sequence)

    def wake(self) -> None:
        """Acknowledge what is durable by now."""
        self._changed.set()

    async def replies(self) -> AsyncIterator[pb.DaemonMessage]:
        """Yield acknowledgements, each for all commits since the last one, and the other messages."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._acknowledged = max(self._committed, self._acknowledged)
            yield pb.DaemonMessage(acknowledgement=self._acknowledgement())
            outgoing, self._outgoing = self._outgoing, []
            for message in outgoing:
                yield message
            if self._superseded or (self._closing and self.all_committed):
                return

    def _acknowledgement(self) -> pb.Acknowledgement:
        return pb.Acknowledgement(sequence=self._acknowledged, flush_interval_ms=self._flush_interval_ms())

    @property
    def committed(self) -> int:
        """The highest durable sequence."""
        return self._committed

    @property
    def all_committed(self) -> bool:
        """True if every received message is durable."""
        return self._committed >= self.stream.next_sequence - 1

    def send(self, message: pb.DaemonMessage) -> None:
        """Send a message other than an acknowledgement."""
        self._outgoing.append(message)
        self._changed.set()

    def challenge(self, nonce: bytes) -> None:
        """Ask the process to show that it lives: another process claims its rank."""
        self.send(pb.DaemonMessage(challenge=pb.Challenge(nonce=nonce)))

    def send_notice(self, text: str) -> None:
        """Show a sentence to the user of the rank."""
        self.send(pb.DaemonMessage(notice=pb.Notice(text=text)))

    def send_directory(self, path: str) -> None:
        """Send the directory of the run's files to the rank."""
        self.send(pb.DaemonMessage(run_directory=pb.RunDirectory(path=path)))

    def close(self) -> None:
        """End the connection once everything is acknowledged: the client sends no more."""
        self._closing = True
        self._changed.set()

    def supersede(self) -> None:
        """End the connection at once: the same process has connected again."""
        self._superseded = True
        self._changed.set()


def _note_ends(ends: Mapping[bytes, DecodedBatch], journal: Journal) -> None:
    for stream, end in ends.items():
        if end.ends:
            journal.update_stream(stream, finished=True, exit_code=end.finish or 0)


def _check_sequence(last: int) -> None:
    # One below the journal's bound, so that there is always a next sequence.
    if last >= SEQUENCE_MAX - 1:
        raise ProtocolError(f"sequences end at {SEQUENCE_MAX - 2}, and {last} arrived")


def _ignore(_: object) -> None:
    """Do nothing."""
