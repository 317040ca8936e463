"""The commit of an admission: after it the client may receive its Welcome."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from tracker_daemon.backends.base import RunStatus
from tracker_daemon.journal.event import EventKind, Gap
from tracker_daemon.journal.rows import StreamRow
from tracker_daemon.journal.store import Journal
from tracker_daemon.recording import events
from tracker_daemon.recording.recorder import Recorder, Submission
from tracker_daemon.runs.run import Admission
from tracker_protocol.v1 import tracker_pb2 as pb


@dataclass(frozen=True, slots=True)
class Continuation:
    """The batch sequence and the training step from which a client continues."""

    next_sequence: int
    next_step: int


class AdmissionCommit:
    """Journals one ``admission``, and whether the journal has lost batches of the stream."""

    def __init__(self, admission: Admission, recorder: Recorder, loop: asyncio.AbstractEventLoop) -> None:
        self._admission = admission
        self._recorder = recorder
        self._loop = loop

    async def run(self, hello: pb.Hello, new_backends: Mapping[str, bytes]) -> Continuation:
        """Commit the admission; return the point from which the client continues.

        ``new_backends`` are the states of the cursors that the run gets. A new run gets them in the same
        transaction, so that nothing is reclaimed before its backends have it.
        """
        stream, run = self._admission.stream, self._admission.stream.run
        names = tuple(hello.names)
        lost = self._lost_range(hello)
        event = events.HelloEvent(stream.rank, hello.process.world_size, stream.attempt, names)
        next_step = 0

        def prepare(journal: Journal) -> None:
            nonlocal next_step
            self._write_rows(journal, new_backends)
            if lost:
                self._recorder.begin_epoch()
            fold = self._recorder.fold_of(run.live)
            next_step = fold.next_automatic_step(stream.rank, stream.attempt)
            stream.names_known = len(fold.names_of(stream.stream_id))

        submissions = [
            Submission(run.live, EventKind.HELLO, stream.stream_id, 0, events.encode(event), prepare=prepare)
        ]
        if lost:
            submissions.extend(self._record_loss(lost))
        next_sequence = stream.next_sequence  # a later connection may move it during the commit
        if self._admission.warning:
            notice = events.NoticeEvent(self._admission.warning)
            submissions.append(Submission(run.live, EventKind.NOTICE, payload=events.encode(notice)))
        await self._commit(submissions)
        stream.names_known = max(stream.names_known, len(names))
        return Continuation(next_sequence, next_step)

    def _write_rows(self, journal: Journal, new_backends: Mapping[str, bytes]) -> None:
        """Write the rows of the admission; on the recorder's thread."""
        admission, stream, run = self._admission, self._admission.stream, self._admission.stream.run
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
                stream.stream_id, live.row_id, stream.rank, stream.attempt, 1, stream.host, stream.pid,
                process=stream.process, agent=stream.agent,
            )  # fmt: skip
            journal.insert_stream(row)
            journal.update_run(live.row_id, attempt=run.attempt)

    def _lost_range(self, hello: pb.Hello) -> tuple[int, int] | None:
        """Return the first and last acknowledged sequence that the journal lacks; None if it lacks none."""
        expected = self._admission.stream.next_sequence
        return (expected, hello.last_acknowledged) if hello.last_acknowledged >= expected else None

    def _record_loss(self, lost: tuple[int, int]) -> list[Submission]:
        stream, run = self._admission.stream, self._admission.stream.run.live
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
        """Submit all, and wait until the last one is durable."""
        done: asyncio.Future[None] = self._loop.create_future()

        def committed(_: int) -> None:
            self._loop.call_soon_threadsafe(_resolve, done)

        submissions[-1].committed = committed
        for submission in submissions:
            self._recorder.submit(submission)
        await done


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
