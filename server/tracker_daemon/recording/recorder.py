"""The recorder: the one thread that folds, journals and commits.

    submissions ──▶ fold ──▶ events + records ──▶ COMMIT ──▶ acknowledgements

All submissions that are pending when a cycle begins make one *tick*. They are applied to the folds, and the
folds settle. The events and the folds' output are committed together, and only then acknowledged. This thread
alone uses the journal and the folds, so neither needs a lock. Other threads give it work with
:meth:`Recorder.submit` and :meth:`Recorder.call`.

A commit that fails ends the thread: nothing after it is acknowledged, nothing is retried on that connection,
and the daemon exits. Acknowledged data is in the journal, and the next start replays it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from tracker_daemon.aggregation.shared.fold import Fold, FoldSummary
from tracker_daemon.aggregation.values.batch import DecodedBatch
from tracker_daemon.backends.base import RunStatus
from tracker_daemon.errors import JournalError
from tracker_daemon.journal.event import Event, EventKind
from tracker_daemon.journal.store import Journal
from tracker_daemon.recording import events, replay, run_end
from tracker_daemon.recording.live_run import LiveRun, RunView
from tracker_daemon.recording.outbox_entries import write_outbox
from tracker_daemon.settings.definitions import Settings
from tracker_protocol import limits

T = TypeVar("T")
_NS = 1_000_000_000
_IDLE_WAKE_S = 0.25
_SUBMISSION_OVERHEAD_BYTES = 512
"""Counted for each submission, so that many small ones are bounded as well."""
_DEADLINE_AGAIN_NS = 10_000_000
"""A deadline lies at least this far ahead: one that changes nothing must not keep the disk busy."""
_STRAGGLERS_WAIT_NS = 2 * _NS
"""Time for which an ended run stays in memory after its last event."""


@dataclass(slots=True, eq=False)
class Submission:
    """One event for the journal.

    ``prepare`` runs in its transaction, before the fold sees it; ``committed`` is called with
    ``sequence``, on the recorder's thread, after the commit.
    """

    run: LiveRun
    kind: EventKind
    stream: bytes = b""
    sequence: int = 0
    payload: bytes = b""
    decoded: DecodedBatch | None = None
    prepare: Callable[[Journal], None] | None = None
    committed: Callable[[int], None] | None = None


@dataclass(slots=True, eq=False)
class _Call(Generic[T]):
    work: Callable[[Journal], T]
    future: Future[T]


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[T]):
    """The result of a call, reported once its transaction is committed."""

    call: _Call[T]
    result: T | None
    error: JournalError | None

    @staticmethod
    def of(call: _Call[T], journal: Journal) -> _Outcome[T]:
        try:
            return _Outcome(call, call.work(journal), None)
        except JournalError as error:
            # A mistake of this caller has changed nothing. If the journal itself is broken, the commit fails.
            return _Outcome(call, None, error)

    def report(self) -> None:
        """Resolve the future of the call."""
        if self.error is not None:
            self.call.future.set_exception(self.error)
        else:
            self.call.future.set_result(self.result)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class RecorderSettings:
    """Bounds and intervals of commits and snapshots; times in seconds."""

    commit_window_s: float
    commit_bytes_max: int
    snapshot_every_s: float
    snapshot_every_bytes: int
    open_cells_bytes: int
    restart_grace_s: float = limits.RESTART_GRACE_S

    @classmethod
    def from_settings(cls, settings: Settings) -> RecorderSettings:
        """Return the recorder's part of the daemon's settings."""
        return cls(
            settings.commit_window_s,
            limits.COMMIT_BYTES_MAX,
            settings.snapshot_every_s,
            settings.snapshot_every_bytes,
            settings.open_cells_bytes,
            settings.restart_grace_s,
        )


class Recorder:
    """The thread that the module describes.

    ``on_tick`` is called on it after each commit, with the runs that have news and what was
    committed; ``on_failure`` once, if the thread ends by an error.
    """

    def __init__(
        self,
        journal: Journal,
        settings: RecorderSettings,
        on_tick: Callable[[list[LiveRun], list[Submission]], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._on_tick = on_tick
        self._on_failure = on_failure
        self._changed = threading.Condition()
        self._pending: list[Submission] = []
        self._calls: list[_Call[object]] = []
        self._in_hand: list[_Call[object]] = []
        self._stopping = False
        self._epoch_begun = False
        self._runs: dict[int, LiveRun] = {}
        self._clock = _Clock()
        self.pending_bytes = 0
        """Bytes submitted for a later tick; read by the event loop."""
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    # ---- for other threads -----------------------------------------------------------------------

    def start(self, runs: Iterable[LiveRun]) -> None:
        """Start the thread, with the runs of the journal."""
        for run in runs:
            self._runs[run.row_id] = run
            self._pending.append(Submission(run, EventKind.STARTED))
        self._thread.start()

    def submit(self, submission: Submission) -> None:
        """Hand over an event; it is durable when ``committed`` is called."""
        with self._changed:
            if self._stopping:
                raise JournalError("the daemon is closing its journal; it accepts no more events")
            self._pending.append(submission)
            self.pending_bytes += len(submission.payload) + _SUBMISSION_OVERHEAD_BYTES
            if len(self._pending) == 1 or self.pending_bytes > self._settings.commit_bytes_max:
                self._changed.notify()

    def call(self, work: Callable[[Journal], T]) -> Future[T]:
        """Run ``work`` inside the next transaction; the future resolves once that is committed."""
        future: Future[T] = Future()
        # From here on it cannot be cancelled: the work is done even if the caller stops waiting.
        future.set_running_or_notify_cancel()
        with self._changed:
            if self._stopping:
                future.set_exception(JournalError("the daemon has closed its journal"))
                return future
            self._calls.append(_Call(work, future))  # type: ignore[arg-type]
            self._changed.notify()
        return future

    def stop(self) -> None:
        """Commit pending submissions, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    # ---- the loop --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            for run in list(self._runs.values()):
                self.fold_of(run)
            while self._cycle():
                pass
        # The thread's outermost frame: whatever ended it, the daemon must know and stop.
        except BaseException as error:  # noqa: BLE001
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._stopping = True
            calls, self._calls = self._calls, []
        for call in (*self._in_hand, *calls):
            if not call.future.done():
                call.future.set_exception(JournalError(f"the journal has failed: {error}"))
        self._on_failure(error)

    def _cycle(self) -> bool:
        submissions, calls, stopping = self._take()
        due = [run for run in self._runs.values() if self._is_due(run)]
        submissions.extend(Submission(run, EventKind.DEADLINE) for run in due)
        self._in_hand = calls
        if submissions or calls:
            self._commit(submissions, calls)
        return not stopping

    def _take(self) -> tuple[list[Submission], list[_Call[object]], bool]:
        """Wait for work, then a commit window for more of it; remove and return all of it."""
        with self._changed:
            if not (self._pending or self._calls or self._stopping):
                self._changed.wait(self._idle_s())
            if self._pending and not self._stopping:
                full = self._settings.commit_bytes_max
                self._changed.wait_for(
                    lambda: self._stopping or self.pending_bytes > full, self._settings.commit_window_s
                )
            submissions, self._pending = self._pending, []
            calls, self._calls = self._calls, []
            self.pending_bytes = 0
            return submissions, calls, self._stopping

    def _idle_s(self) -> float:
        deadlines = [run.deadline_ns for run in self._runs.values() if run.deadline_ns is not None]
        if not deadlines:
            return _IDLE_WAKE_S
        return min(_IDLE_WAKE_S, max(0.0, (min(deadlines) - self._clock.now_ns()) / _NS))

    def _is_due(self, run: LiveRun) -> bool:
        return run.deadline_ns is not None and run.deadline_ns <= self._clock.now_ns()

    # ---- a tick ----------------------------------------------------------------------------------

    def _commit(self, submissions: list[Submission], calls: list[_Call[object]]) -> None:
        journal, now_ns = self._journal, self._clock.now_ns()
        tick = journal.next_tick
        journal.begin()
        touched: dict[int, LiveRun] = {}
        for submission in submissions:
            self._apply(submission, now_ns)
            touched[submission.run.row_id] = submission.run
        events_ = [Event(s.run.row_id, s.kind, s.stream, s.sequence, s.payload) for s in submissions]
        positions = journal.append(events_, tick=tick, time_ns=now_ns) if events_ else []
        had_events = {s.run.row_id for s in submissions if s.kind is not EventKind.DEADLINE}
        leaving = []
        for run in touched.values():
            ended = self._settle(run, now_ns)
            if self._may_leave(run, now_ns, had_events=run.row_id in had_events and not ended):
                leaving.append(run)
            if ended or run in leaving or self._wants_snapshot(run, now_ns):
                self._put_snapshot(run, positions[-1], now_ns)
        outcomes = [_Outcome.of(call, journal) for call in calls]
        journal.reclaim()
        journal.commit()
        for submission in submissions:
            if submission.committed is not None:
                submission.committed(submission.sequence)
        # Before the calls return: their callers then know of everything before them.
        self._on_tick(list(touched.values()), submissions)
        for outcome in outcomes:
            outcome.report()
        for run in touched.values():
            self._bound_memory(run)
        for run in leaving:
            self._unload(run)

    def _apply(self, submission: Submission, now_ns: int) -> None:
        run = submission.run
        if submission.prepare is not None:
            submission.prepare(self._journal)
        self._runs[run.row_id] = run
        run.uncovered_bytes += len(submission.payload)
        fold = self.fold_of(run)
        events.apply(fold, submission.kind, submission.stream, submission.payload, now_ns, submission.decoded)

    def _settle(self, run: LiveRun, now_ns: int) -> bool:
        """Settle the run's tick and journal its output; return True if the run has just ended."""
        fold = self.fold_of(run)
        settled = fold.settle(now_ns)
        entry, files = write_outbox(self._journal, run.row_id, settled)
        last_entry, last_files = entry or run.view.last_entry, files or run.view.last_files
        replay.keep_notices(run, settled, now_ns)
        run.warnings.extend(settled.warnings)
        activity = fold.activity()
        deadlines = [activity.deadline_ns]
        status, reason, ended_ns = run.view.status, run.view.reason, run.view.ended_ns
        due_ns = None
        if status == RunStatus.RUNNING.value:
            due_ns = run_end.due_ns(fold, int(self._settings.restart_grace_s * _NS))
        newly_ended = due_ns is not None and now_ns >= due_ns
        if newly_ended:
            end = run_end.end(self._journal, run.row_id, fold, now_ns)
            status, reason, ended_ns, last_entry = end.status, end.reason, now_ns, end.entry
        else:
            deadlines.append(due_ns)
        deadline_ns = min((ns for ns in deadlines if ns is not None), default=None)
        run.deadline_ns = None if deadline_ns is None else max(deadline_ns, now_ns + _DEADLINE_AGAIN_NS)
        run.view = RunView(
            activity.learning,
            status,
            reason,
            ended_ns,
            last_entry,
            last_files,
            activity.open_rows,
            activity.open_bytes,
            activity.world_size,
            activity.to_forward,
        )
        return newly_ended

    def _bound_memory(self, run: LiveRun) -> None:
        if run.view.open_bytes > self._settings.open_cells_bytes:
            rows = max(1, run.view.open_rows // 4)
            with self._changed:
                self._pending.insert(0, Submission(run, EventKind.OVERFLOW, payload=events.encode(rows)))

    def _may_leave(self, run: LiveRun, now_ns: int, *, had_events: bool) -> bool:
        """Return True if an ended run can leave memory: nothing waits in it, and no straggler sends."""
        if run.view.status == RunStatus.RUNNING.value or run.deadline_ns is not None:
            return False
        if had_events:
            run.deadline_ns = now_ns + _STRAGGLERS_WAIT_NS
        return not had_events

    def _unload(self, run: LiveRun) -> None:
        # If a straggler still sends something, the fold is restored from the snapshot.
        run.at_end = self.fold_of(run).summary()
        run.fold = None
        run.deadline_ns = None
        del self._runs[run.row_id]

    # ---- snapshots and replay --------------------------------------------------------------------

    def _wants_snapshot(self, run: LiveRun, now_ns: int) -> bool:
        if run.uncovered_bytes >= self._settings.snapshot_every_bytes:
            return True
        waited_ns = now_ns - run.snapshot_ns
        return bool(run.uncovered_bytes) and waited_ns >= self._settings.snapshot_every_s * _NS

    def _put_snapshot(self, run: LiveRun, position: int, now_ns: int) -> None:
        replay.save(self._journal, run, self.fold_of(run), position)
        run.uncovered_bytes, run.snapshot_ns = 0, now_ns

    def fold_of(self, run: LiveRun) -> Fold:
        """Return the run's fold; replay it from the journal if it is not in memory. On this thread."""
        if run.fold is None:
            run.fold, time_ns = replay.restore(self._journal, run)
            self._clock.not_before(time_ns)
        return run.fold

    def summary_of(self, run: LiveRun) -> FoldSummary:
        """Return the summary of the run's fold, also if the fold has left memory. On this thread."""
        if run.fold is not None:
            return run.fold.summary()
        if run.at_end is None:
            run.at_end = self.fold_of(run).summary()
            run.fold = None
        return run.at_end

    def begin_epoch(self) -> None:
        """Begin a journal epoch: the journal has lost something. On this thread, in a transaction.

        Only the first call in a process does: all losses are from before the journal was opened.
        """
        if not self._epoch_begun:
            self._epoch_begun = True
            self._journal.begin_epoch()


class _Clock:
    """Wall-clock time in nanoseconds that never runs backwards, also over a restart."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def now_ns(self) -> int:
        return time.monotonic_ns() + self._offset_ns

    def not_before(self, time_ns: int) -> None:
        self._offset_ns += max(0, time_ns - self.now_ns())
