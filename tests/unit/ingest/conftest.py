"""What the tests of ingest share: Hellos and batches as clients send them, and a recorder on a journal."""

from __future__ import annotations

import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from tracker_daemon.aggregation.batch import decode_batch
from tracker_daemon.aggregation.fold import RunFold
from tracker_daemon.aggregation.rules import Rules
from tracker_daemon.ingest import events, replay
from tracker_daemon.ingest.live_run import LiveRun
from tracker_daemon.ingest.recorder import Recorder, RecorderSettings, Submission
from tracker_daemon.ingest.registry import Registry
from tracker_daemon.ingest.run_options import RunOptions
from tracker_daemon.journal.event import EventKind
from tracker_daemon.journal.rows import RunRow, StreamRow
from tracker_daemon.journal.store import Journal
from tracker_daemon.selection import RankSet, ReporterRules
from tracker_protocol.v1 import tracker_pb2 as pb

PATIENCE_S = 20.0
SECOND = 1_000_000_000
DEFAULTS = RunOptions("memory", "/out", 0, "")
OPTIONS = msgspec.json.encode(DEFAULTS).decode()
RULES = Rules(0, RankSet(), ReporterRules(), 5 * SECOND, 30 * SECOND, 3)


def stream_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def hello(stream: int, rank: int = 0, *, world: int = 2, names: Sequence[str] = (), **launch) -> pb.Hello:
    options = pb.RunOptions(**launch.pop("options", {}))
    process = pb.Process(
        rank=rank, world_size=world, host=f"node{rank}", pid=1000 + stream, rank_source="the test",
        environment=launch.pop("environment", ""),
    )  # fmt: skip
    return pb.Hello(
        protocol_version=1,
        stream_id=stream_id(stream),
        names=names,
        launch=pb.Launch(**{"key": "launch", "project": "project", **launch}),
        process=process,
        options=options,
    )


def body(
    rows: dict[int, float] | None = None, names: Sequence[str] = (), finish: int | None = None, **fields
) -> bytes:
    """A batch's body: ``rows`` are the values by step of the dictionary's first metric."""
    batch = pb.BatchBody(names=names, **fields)
    if rows:
        n = len(rows)
        batch.blocks.add(
            keys=[0],
            steps=struct.pack(f"<{n}q", *rows),
            times=struct.pack(f"<{n}q", *range(n)),
            values=struct.pack(f"<{n}d", *rows.values()),
        )
    if finish is not None:
        batch.finish = finish
    return batch.SerializeToString()


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

    def replayed(self, run: LiveRun) -> tuple[RunFold, LiveRun]:
        """What another process would make of the run, from the closed journal."""
        self.close()
        again = LiveRun(run.run_id, RULES, 0, row_id=run.row_id)
        journal = Journal.open(self.directory, history_bytes=1 << 30)
        try:
            fold, _ = replay.restore(journal, again)
        finally:
            journal.close()
        return fold, again


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "state")
    yield rig
    rig.close()


@dataclass
class Connection:
    """Plays a session, as far as the registry needs one."""

    superseded: int = 0

    def supersede(self) -> None:
        self.superseded += 1


@pytest.fixture
def registry() -> Registry:
    return Registry(DEFAULTS, RULES)


class Door:
    """Lets clients into a registry as the daemon does, less the journal."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.rows = 0

    def come(self, *arguments, **keywords):
        admission = self.registry.admit(hello(*arguments, **keywords))
        self.registry.connect(admission.stream, Connection())
        run = admission.stream.run
        if admission.new_run:
            self.rows += 1
            run.live.row_id = self.rows
        return admission

    def go(self, admission) -> None:
        self.registry.disconnect(admission.stream, admission.stream.connection)

    def end(self, run, status: str = "FINISHED", ended_ns: int = 1) -> None:
        run.live.view = replace(run.live.view, status=status, ended_ns=ended_ns)


@pytest.fixture
def door(registry: Registry) -> Door:
    return Door(registry)


# Test modules are no package (see pytest's importlib mode), so what they share hangs here.
pytest.ingest_hello = hello
pytest.ingest_body = body
pytest.ingest_stream_id = stream_id
