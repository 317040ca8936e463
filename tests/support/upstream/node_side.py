"""A node's daemon for tests, less the processes: all behind its front is real, its root is in this process.

async with Node(server, directory) as node:
    session, welcome = await node.come(1, rank=0)
    session.take(batch(1, config=["{}"]))
"""

from __future__ import annotations

import asyncio
import zlib
from pathlib import Path

import msgspec

from tests.support.upstream.root_server import until
from tracker_daemon.admission.parts import CommonParts
from tracker_daemon.delivery.locations import log_location
from tracker_daemon.journal.store import Journal
from tracker_daemon.recording.journal_calls import JournalCalls
from tracker_daemon.recording.recorder import Recorder, RecorderSettings
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run_endings import RunEndings
from tracker_daemon.runs.run_options import RunOptions, default_rules
from tracker_daemon.runs.stored_runs import StoredRuns
from tracker_daemon.settings.definitions import Settings
from tracker_daemon.upstream.node_parts import build_node_parts
from tracker_protocol import PROTOCOL_VERSION
from tracker_protocol.v1 import tracker_pb2 as pb

OPTIONS = RunOptions("csv", "/root/out", 0, "")


def stream_id(number):
    return number.to_bytes(16, "big")


def hello(number, rank, **more):
    process = pb.Process(rank=rank, world_size=4, host="node7", pid=1000 + number, rank_source="the test")
    return pb.Hello(
        protocol_version=PROTOCOL_VERSION,
        stream_id=stream_id(number),
        launch=pb.Launch(key="launch", project="project"),
        process=process,
        **more,
    )


def batch(sequence, **fields):
    body = pb.BatchBody(**fields).SerializeToString()
    return pb.ClientMessage(batch=pb.Batch(sequence=sequence, crc32=zlib.crc32(body), body=body))


class Decisions:
    """What the root decides about ranks, by Admit; ``attempt`` is for those that come next."""

    def __init__(self, server):
        server.admit = self
        self.asked = []
        self.attempt = 1
        self.refusal = None
        self.options = msgspec.json.encode(OPTIONS).decode()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, request, context):
        self.asked.append(request)
        attempt = self.attempt
        await self.may_answer.wait()
        if self.refusal is not None:
            await context.abort(*self.refusal)
        welcome = pb.Welcome(
            run_id="r-1", attempt=attempt, next_step=40, run_name="digits", outdir="/root/out",
            backends=["csv", "mine"], script_backends=["mine"] if request.hello.process.rank == 0 else [],
        )  # fmt: skip
        return pb.AdmitReply(welcome=welcome, options=self.options)


class Node:
    """A node's daemon, less the processes: a real journal, recorder and pumps behind its front."""

    def __init__(self, server, directory: Path):
        self.server = server
        self.decisions = Decisions(server)
        self.settings = Settings(upstream=server.address, state_dir=directory, commit_window_s=0.0)
        self.journal = Journal.open(directory, history_bytes=1 << 30)
        self.failures = []
        self.loop = asyncio.get_running_loop()
        self.registry = Registry(RunOptions.from_settings(self.settings), default_rules(self.settings), 5.0)
        self.recorder = Recorder(
            self.journal, RecorderSettings.from_settings(self.settings), self._on_tick, self.failures.append
        )
        calls = JournalCalls(self.recorder)
        self.on_journal = calls.run
        self.stored_runs = StoredRuns(self.registry, calls.run)
        common = CommonParts(
            self.settings, self.journal, self.registry, self.recorder, calls, self.stored_runs,
            RunEndings(self.registry, self.recorder), directory / "contents",
        )  # fmt: skip
        parts = build_node_parts(common, log_location, self.loop)
        self.pumps, self.delivery, self.admission = parts.pumps, parts.delivery, parts.admission
        self._restore()
        self.care = asyncio.create_task(self._care())

    def trouble(self, cursor):
        """What a pump says is wrong; "" for nothing, or where there is no pump."""
        health = self.pumps.health(self.run.live.row_id).get(cursor)
        return health.reason if health else ""

    def _restore(self):
        """Restore the runs of the journal, as a daemon does."""
        restored = self.stored_runs.restore_all(self.journal)
        for one in restored:
            self.admission.add_restored(one)
        self.recorder.start(one.run.live for one in restored if one.run.running)
        for one in restored:
            self.delivery.resume(one.run)

    def _on_tick(self, runs, submissions):
        streams = {submission.stream for submission in submissions if submission.stream}
        self.loop.call_soon_threadsafe(self._ticked, runs, streams)

    def _ticked(self, runs, streams):
        self.registry.wake(streams)
        for run in runs:
            self.admission.on_commit(run)

    async def _care(self):
        """As the daemon does, but more often."""
        while True:
            self.admission.poll()
            self.delivery.poll()
            await asyncio.sleep(0.002)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.care.cancel()
        await self.admission.close()
        await asyncio.to_thread(self.pumps.stop, 20.0)
        await asyncio.to_thread(self.recorder.stop)
        self.journal.close()
        assert self.failures == []

    @property
    def run(self):
        return self.registry.runs["r-1"]

    async def come(self, number, rank, **more):
        session, welcome = await self.admission.admit(hello(number, rank, **more))
        return session, welcome.welcome

    async def committed(self):
        await self.on_journal(lambda _: None)

    async def connected(self):
        """The root knows of a rank that it is here."""
        await until(lambda: self.server.connections and present(self.server), "the connection")

    def delivered(self):
        """How many batches the pump has counted as delivered."""
        health = self.pumps.health(self.run.live.row_id).get("upstream")
        return health.delivered_records if health else 0


def said(server):
    """All that has come at the root, over all connections: batches' bodies."""
    return [pb.BatchBody.FromString(body) for connection in server.connections for body in connection.bodies]


def configs(connection):
    """The configurations that have come on this connection, in order."""
    bodies = map(pb.BatchBody.FromString, connection.bodies)
    return [config for body in bodies for part in body.parts for config in part.body.config]


def present(server):
    """The ranks' streams that were told last to be there."""
    told = server.connection.of("presence")
    return {rank.stream_id for rank in told[-1].ranks} if told else None
