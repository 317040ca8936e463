"""What the tests of ingest share: Hellos and batches as clients send them, and a recorder on a journal."""

from __future__ import annotations

import asyncio
import sqlite3
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from tracker_daemon.aggregation.root.fold import RunFold
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.ingest.nodes import Nodes, NodeSession, RelayedSession
from tracker_daemon.ingest.session import SessionContext
from tracker_daemon.journal.event import EventKind
from tracker_daemon.journal.rows import RunRow, StreamRow
from tracker_daemon.journal.store import Journal
from tracker_daemon.recording import events, replay
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.recording.recorder import Recorder, RecorderSettings, Submission
from tracker_daemon.rules.rank_selection import RankSet, ReporterRules
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Admission
from tracker_daemon.runs.run_options import RunOptions
from tracker_daemon.wire.batches import decode_batch
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


NODE = b"n" * 16
NODES_STREAM = 100


def node_hello(run_id, *, stream=NODES_STREAM, node=NODE, names=(), files_lane=False):
    told = pb.Node(node_id=node, run_id=run_id, host="host7", pid=7, files_lane=files_lane)
    return pb.Hello(protocol_version=1, stream_id=stream_id(stream), names=names, node=told)


def batch_message(sequence, payload):
    message = pb.Batch(sequence=sequence, crc32=zlib.crc32(payload), body=payload)
    return pb.ClientMessage(batch=message)


class NodesDesk:
    """A root's registry and recorder, with two ranks that a node's daemon has brought."""

    def __init__(self, rig, recorder):
        self.rig = rig
        self.recorder = recorder
        self.registry = Registry(RunOptions("memory", "/out", 0, ""), rig.run().rules)
        self.nodes = Nodes(self._came, self._left)
        self.log = []
        """Who came and who left, in order: (what, rank)."""
        self.present = []

    def _came(self, link, stream, present):
        session = link.relayed[stream.stream_id] = self._relayed(Admission(stream), link)
        self.registry.connect(stream, session)
        self.log.append(("came", stream.rank))
        self.present.append(present)

    def _left(self, session):
        self.registry.disconnect(session.stream, session)
        self.log.append(("left", session.stream.rank))

    def _relayed(self, admission, link):
        return RelayedSession(admission, self.serving(), link)

    async def rank(self, number, rank, **keywords):
        """A rank is admitted for its node."""
        message = hello(number, rank, **keywords)
        admission = self.registry.admit(message)
        self.run = admission.stream.run
        session = self._relayed(admission, self.nodes.link(NODE, self.run))
        await session.welcome(message, new_backends={"memory": b""}, script_backends=[], version="1")
        return admission.stream

    def serving(self):
        return SessionContext(self.recorder, asyncio.get_running_loop(), lambda: 200)

    async def node(self, **keywords):
        """The node's daemon connects."""
        message = node_hello(self.run.run_id, **keywords)
        admission = self.registry.admit(message)
        link = self.nodes.link(message.node.node_id, self.run)
        session = NodeSession(admission, self.serving(), link, files_lane=message.node.files_lane)
        self.registry.connect(admission.stream, session)
        await session.welcome(message, new_backends={}, script_backends=[], version="1")
        if not session.files_lane:
            link.attach(session)
        return session

    async def committed(self, session):
        """Everything that the session took is durable, and it knows."""
        await asyncio.wrap_future(self.recorder.call(lambda _: None))
        session.wake()

    def end(self, status="FINISHED", reason="as it should"):
        self.run.live.view = replace(self.run.live.view, status=status, reason=reason, ended_ns=1)


@pytest.fixture
def play_nodes(rig):
    """Runs a scenario that is a coroutine over a desk with ranks 0 and 1, on streams 1 and 2."""

    def run(scenario, connection_class=sqlite3.Connection):
        async def whole():
            desk = NodesDesk(rig, rig.open(connection_class))
            desk.recorder.start([])
            for rank in (0, 1):
                await desk.rank(rank + 1, rank)
            await scenario(desk)

        asyncio.run(whole())

    return run


# Test modules are no package (see pytest's importlib mode), so what they share hangs here.
pytest.ingest_hello = hello
pytest.ingest_body = body
pytest.ingest_stream_id = stream_id
pytest.ingest_node_hello = node_hello
pytest.ingest_batch_message = batch_message
pytest.ingest_node = NODE
