"""One connection of one stream: from Hello to the last acknowledgement."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from tracker_daemon.aggregation.shared.batch import DecodedBatch
from tracker_daemon.backends.base import RunStatus
from tracker_daemon.errors import MalformedBatch, ProtocolError
from tracker_daemon.journal.event import SEQUENCE_MAX, EventKind, Gap
from tracker_daemon.journal.rows import StreamRow
from tracker_daemon.journal.store import Journal
from tracker_daemon.recording import events
from tracker_daemon.recording.recorder import Recorder, Submission
from tracker_daemon.runs.run import Admission
from tracker_daemon.wire.batches import decode_batch
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb


class BrokenStream(ProtocolError):
    """What arrived is damaged or out of order; the client should connect again and resend."""


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What all connections are served with; ``flush_interval_ms`` tells how often clients should send."""

    recorder: Recorder
    loop: asyncio.AbstractEventLoop
    flush_interval_ms: Callable[[], int]


class Session:
    """Turns a connection's messages into submissions, and commits into acknowledgements."""

    def __init__(
        self,
        admission: Admission,
        serving: SessionContext,
    ) -> None:
        self.stream = admission.stream
        self._admission = admission
        self._recorder = serving.recorder
        self._loop = serving.loop
        self._flush_interval_ms = serving.flush_interval_ms
        self._changed = asyncio.Event()
        self._committed = self.stream.next_sequence - 1
        self._acknowledged = self._committed
        self._outgoing: list[pb.DaemonMessage] = []
        self.wants_delivery = False
        self.on_taken: Callable[[pb.BackendTaken], None] = _ignore
        """What is done with the answers of the script's classes."""
        self.asked_handles: dict[str, pb.BackendHandles] = {}
        """The backends whose handles were asked for, with what was told last."""
        self._closing = False
        self._superseded = False

    # ---- admission -------------------------------------------------------------------------------

    async def welcome(
        self, hello: pb.Hello, *, new_backends: Mapping[str, bytes], script_backends: list[str], version: str
    ) -> pb.DaemonMessage:
        """Journal the stream's coming and answer it; durable when this returns.

        The run gets a cursor for each of ``new_backends``, with that state: a new run at once, so that
        nothing is reclaimed before them.
        """
        stream, run = self.stream, self.stream.run
        names = tuple(hello.names)
        lost = self._lost_range(hello)
        event = events.HelloEvent(stream.rank, hello.process.world_size, stream.attempt, names)
        next_step = 0

        def prepare(journal: Journal) -> None:
            nonlocal next_step
            self._enter(journal, new_backends)
            if lost:
                self._recorder.begin_epoch()
            fold = self._recorder.fold_of(run.live)
            next_step = fold.step_to_go_on_from(stream.rank, stream.attempt)
            stream.names_known = len(fold.names_of(stream.stream_id))

        submissions = [
            Submission(run.live, EventKind.HELLO, stream.stream_id, 0, events.encode(event), prepare=prepare)
        ]
        if lost:
            submissions.extend(self._loss(lost))
        due = stream.next_sequence
        await self._commit(submissions)
        stream.names_known = max(stream.names_known, len(names))
        self._committed = self._acknowledged = due - 1
        welcome = pb.Welcome(
            run_id=run.run_id,
            attempt=stream.attempt,
            next_sequence=due,
            next_step=next_step,
            flush_interval_ms=self._flush_interval_ms(),
            daemon_version=version,
            run_name=run.row.name,
            outdir=run.options.outdir,
            records_items=run.live.rules.records_items(stream.rank),
            backends=run.backends,
            script_backends=script_backends,
        )
        return pb.DaemonMessage(welcome=welcome)

    def _enter(self, journal: Journal, new_backends: Mapping[str, bytes]) -> None:
        """Journal what the admission decided; on the recorder's thread."""
        stream, run, admission = self.stream, self.stream.run, self._admission
        live = run.live
        if admission.new_run:
            live.row_id = journal.insert_run(run.row)
        for cursor, state in new_backends.items():
            journal.put_cursor(live.row_id, cursor, 0, state, 0)
        if admission.describes:
            journal.update_run(live.row_id, options=msgspec.json.encode(run.options).decode())
        if admission.reopened:
            running = RunStatus.RUNNING.value
            journal.update_run(live.row_id, status=running, reason="", ended_ns=0)
            live.view = replace(live.view, status=running, reason="", ended_ns=0)
            run.reopening = False
        if admission.new_stream:
            row = StreamRow(
                stream.stream_id, live.row_id, stream.rank, stream.attempt, 1, stream.host, stream.pid
            )
            journal.insert_stream(row)
            journal.update_run(live.row_id, attempt=run.attempt)

    def _lost_range(self, hello: pb.Hello) -> tuple[int, int] | None:
        """What this client was told is safe and the journal does not hold, as (from, to)."""
        expected = self.stream.next_sequence
        return (expected, hello.last_acknowledged) if hello.last_acknowledged >= expected else None

    def _loss(self, lost: tuple[int, int]) -> list[Submission]:
        stream, run = self.stream, self.stream.run.live
        first, last = lost
        stream.next_sequence = last + 1
        notice = events.NoticeEvent(
            f"the journal has lost batches {first} to {last} of {stream.source}, which had been acknowledged",
            journal_lost=True,
        )
        return [
            Submission(run, EventKind.NOTICE, payload=events.encode(notice)),
            Submission(run, EventKind.GAP, stream.stream_id, first, Gap(last, 0).to_bytes()),
        ]

    async def _commit(self, submissions: list[Submission]) -> None:
        """Submit, and wait until the last of them is durable."""
        done: asyncio.Future[None] = self._loop.create_future()

        def committed(_: int) -> None:
            self._loop.call_soon_threadsafe(_resolve, done)

        submissions[-1].committed = committed
        for submission in submissions:
            self._recorder.submit(submission)
        await done

    # ---- incoming --------------------------------------------------------------------------------

    def take(self, message: pb.ClientMessage) -> None:
        """Take one message after the Hello.

        Raises:
            BrokenStream: it is damaged or out of order.
            ProtocolError: it is not allowed here.
        """
        if self._superseded:
            return  # what it still brings comes again on the connection that took its place
        kind = message.WhichOneof("message")
        self.stream.note_contact(message.challenge_answer.nonce if kind == "challenge_answer" else None)
        if kind == "batch":
            self._take_batch(message.batch)
        elif kind == "heartbeat":
            self._take_heartbeat(message.heartbeat)
        elif kind == "gap":
            self._take_gap(message.gap)
        elif kind == "await_delivery":
            self.wants_delivery = True
        elif kind == "backend_taken":
            self.on_taken(message.backend_taken)
        elif kind == "handles_request":
            if message.handles_request.backend in self.stream.run.backends:
                self.asked_handles.setdefault(message.handles_request.backend, pb.BackendHandles())
        elif kind == "challenge_answer":
            return
        else:
            raise ProtocolError(f"a {kind or 'nameless'} message has no place after the Hello")

    def _take_batch(self, batch: pb.Batch) -> None:
        stream = self.stream
        if batch.sequence < stream.next_sequence:
            stream.duplicates += 1
            self._changed.set()
            return
        if batch.sequence > stream.next_sequence:
            raise BrokenStream(f"batch {batch.sequence} came where {stream.next_sequence} was due")
        if zlib.crc32(batch.body) != batch.crc32:
            raise BrokenStream(f"batch {batch.sequence} does not match its checksum")
        _check_sequence(batch.sequence)
        try:
            decoded = self._decode(batch.body)
        except MalformedBatch as error:
            self._submit(EventKind.REJECTED, batch.sequence, batch.sequence, str(error).encode())
            # Names that it introduced are unknown now; the next Hello brings the whole dictionary.
            raise BrokenStream(f"batch {batch.sequence} is rejected: {error}") from error
        stream.names_known += len(decoded.names)
        ends = self._ends(decoded)
        for ended in ends:
            stream.run.streams[ended].finished = True
        submission = Submission(
            stream.run.live, EventKind.BATCH, stream.stream_id, batch.sequence, batch.body, decoded,
            committed=self._on_committed,
        )  # fmt: skip
        if ends:
            submission.prepare = partial(_note_ends, ends)
        self._recorder.submit(submission)
        stream.next_sequence += 1

    def _ends(self, decoded: DecodedBatch) -> dict[bytes, int]:
        """The streams that end with this batch, and their ranks' exit codes."""
        return {} if decoded.finish is None else {self.stream.stream_id: decoded.finish}

    def _decode(self, body: bytes) -> DecodedBatch:
        known = self.stream.names_known
        decoded = decode_batch(body, known)
        if known + len(decoded.names) > limits.METRICS_PER_RUN_MAX:
            raise MalformedBatch(f"the stream names more than {limits.METRICS_PER_RUN_MAX} metrics")
        if self._has_foreign(decoded):
            raise MalformedBatch("a rank forwards nothing, and a node's daemon has nothing of its own to say")
        if decoded.dropped_points > limits.DROPPED_POINTS_MAX:
            raise MalformedBatch(f"{decoded.dropped_points} values cannot have been dropped")
        return decoded

    def _has_foreign(self, decoded: DecodedBatch) -> bool:
        """Whether the batch holds what only another kind of stream has."""
        return decoded.forwarded is not None

    def _take_gap(self, gap: pb.Gap) -> None:
        stream = self.stream
        if gap.from_sequence <= gap.to_sequence < stream.next_sequence:
            stream.duplicates += 1
            self._changed.set()
            return
        if gap.from_sequence != stream.next_sequence or gap.to_sequence < gap.from_sequence:
            raise BrokenStream(
                f"a gap from {gap.from_sequence} to {gap.to_sequence} came "
                f"where {stream.next_sequence} was due"
            )
        _check_sequence(gap.to_sequence)
        if gap.points > limits.DROPPED_POINTS_MAX:
            raise ProtocolError(f"a gap of {gap.points} values is not possible")
        payload = Gap(gap.to_sequence, gap.points).to_bytes()
        self._submit(EventKind.GAP, gap.from_sequence, gap.to_sequence, payload)

    def _submit(self, kind: EventKind, sequence: int, through: int, payload: bytes) -> None:
        """Submit an event that uses up the sequences from ``sequence`` to ``through``."""
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
        # Only learning looks at flushes; at other times they need not burden the journal.
        if stream.run.live.view.learning and heartbeat.flushed_through < stream.next_sequence:
            self._recorder.submit(Submission(stream.run.live, EventKind.FLUSHED, stream.stream_id))

    # ---- outgoing --------------------------------------------------------------------------------

    def _on_committed(self, sequence: int) -> None:
        # On the recorder's thread: only note it. The loop is woken once per tick, for all sessions.
        self._committed = max(self._committed, sequence)

    def wake(self) -> None:
        """Something was committed, or the connection ends."""
        self._changed.set()

    async def replies(self) -> AsyncIterator[pb.DaemonMessage]:
        """Acknowledgements, each for all that has been committed since the one before."""
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
        """The highest sequence that is durable."""
        return self._committed

    @property
    def all_committed(self) -> bool:
        """Whether everything that came is durable."""
        return self._committed >= self.stream.next_sequence - 1

    def send(self, message: pb.DaemonMessage) -> None:
        """Send something beside the acknowledgements."""
        self._outgoing.append(message)
        self._changed.set()

    def challenge(self, nonce: bytes) -> None:
        """Ask whether the process lives: another claims its rank."""
        self.send(pb.DaemonMessage(challenge=pb.Challenge(nonce=nonce)))

    def tell(self, text: str) -> None:
        """Have a sentence shown to the user of the rank."""
        self.send(pb.DaemonMessage(notice=pb.Notice(text=text)))

    def close(self) -> None:
        """The client sends no more: end once all is acknowledged."""
        self._closing = True
        self._changed.set()

    def supersede(self) -> None:
        """The same process has connected again."""
        self._superseded = True
        self._changed.set()


def _note_ends(ends: Mapping[bytes, int], journal: Journal) -> None:
    for stream, exit_code in ends.items():
        journal.update_stream(stream, finished=True, exit_code=exit_code)


def _check_sequence(last: int) -> None:
    # One below the journal's bound, so that there is always a next one.
    if last >= SEQUENCE_MAX - 1:
        raise ProtocolError(f"sequences end at {SEQUENCE_MAX - 2}, and {last} came")


def _ignore(_: object) -> None:
    """Do nothing."""


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
