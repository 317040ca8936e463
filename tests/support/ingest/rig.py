"""The recorder on a journal of its own, as the tests of ingest use it."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from tests.support.ingest.messages import stream_id
from tracker_daemon.aggregation.root.fold import RootFold
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.journal.event import EventKind
from tracker_daemon.journal.rows import RunRow, StreamRow
from tracker_daemon.journal.store import Journal
from tracker_daemon.recording import events, replay
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.recording.recorder import Recorder, RecorderSettings, Submission
from tracker_daemon.rules.rank_selection import RankSet, ReporterRules
from tracker_daemon.runs.run_options import RunOptions
from tracker_daemon.wire.batches import decode_batch

PATIENCE_S = 20.0
SECOND = 1_000_000_000
DEFAULTS = RunOptions("memory", "/out", 0, "")
OPTIONS = msgspec.json.encode(DEFAULTS).decode()
RULES = Rules(0, RankSet(), ReporterRules(), 5 * SECOND, 30 * SECOND, 3)


@dataclass
class Tick:
    runs: list[LiveRun]
    submissions: list[Submission]


class Rig:
    """A state directory and the recorder on it, reopened at will."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ticks: list[Tick] = []
        self.failures: list[BaseException] = []
        self.acknowledged: list[tuple[bytes, int]] = []
        self.changed = threading.Condition()
        self.settings = RecorderSettings(0.001, 1 << 24, 3600.0, 1 << 40, 1 << 40)
        self.journal: Journal | None = None

    def open(self, connection_class: type[sqlite3.Connection] = sqlite3.Connection) -> Recorder:
        self.journal = Journal.open(self.directory, history_bytes=1 << 30, connection_class=connection_class)
        self.recorder = Recorder(self.journal, self.settings, self._ticked, self._failed)
        return self.recorder

    def close(self) -> None:
        if self.journal is not None:
            self.recorder.stop()
            self.journal.close()
            self.journal = None

    def _ticked(self, runs: list[LiveRun], submissions: list[Submission]) -> None:
        with self.changed:
            self.ticks.append(Tick(runs, submissions))
            self.changed.notify_all()

    def _failed(self, error: BaseException) -> None:
        with self.changed:
            self.failures.append(error)
            self.changed.notify_all()

    def wait(self, condition: Callable[[], object]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_S)

    # ---- what clients and the loop do ----

    def run(self, name: str = "run", **rules) -> LiveRun:
        return LiveRun(name, replace(RULES, **rules), time.time_ns())

    def join(self, run: LiveRun, stream: int, rank: int, *, world: int = 2, attempt: int = 1) -> None:
        def prepare(journal: Journal) -> None:
            if not run.row_id:
                row = RunRow(0, run.run_id, "launch", "p", run.run_id, 0, "/out", OPTIONS)
                run.row_id = journal.insert_run(row)
                journal.put_cursor(run.row_id, "memory", 0, b"", 0)
            journal.insert_stream(StreamRow(stream_id(stream), run.row_id, rank, attempt))

        payload = events.encode(events.HelloEvent(rank, world, attempt, ()))
        self.recorder.submit(Submission(run, EventKind.HELLO, stream_id(stream), 0, payload, prepare=prepare))

    def batch(self, run: LiveRun, stream: int, sequence: int, payload: bytes) -> None:
        self.recorder.submit(
            Submission(
                run,
                EventKind.BATCH,
                stream_id(stream),
                sequence,
                payload,
                decode_batch(payload, 1),
                committed=lambda committed: self.acknowledged.append((stream_id(stream), committed)),
            )
        )

    def flush(self) -> None:
        """Return once everything that was submitted is committed."""
        self.result(self.recorder.call(lambda _: None))

    def result(self, future: Future):
        return future.result(PATIENCE_S)

    def replayed(self, run: LiveRun) -> tuple[RootFold, LiveRun]:
        """What another process would make of the run, from the closed journal."""
        self.close()
        again = LiveRun(run.run_id, RULES, 0, row_id=run.row_id)
        journal = Journal.open(self.directory, history_bytes=1 << 30)
        try:
            fold, _ = replay.restore(journal, again)
        finally:
            journal.close()
        return fold, again
