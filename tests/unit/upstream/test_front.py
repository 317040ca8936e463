"""The front of a daemon that forwards: the root is asked about each new rank, and told all that ranks say."""

from __future__ import annotations

import asyncio
import time
import zlib
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import grpc
import msgspec
import pytest

from tracker_daemon.backends.script_class import ScriptLinks
from tracker_daemon.delivery.fleet import Fleet
from tracker_daemon.errors import ClientRefused, ProtocolError, SettingsError, UpstreamUnavailable
from tracker_daemon.ingest.recorder import Recorder
from tracker_daemon.ingest.registry import Registry
from tracker_daemon.ingest.run_options import RunOptions
from tracker_daemon.journal.store import Journal
from tracker_daemon.part_settings import default_options, recorder_settings, rules
from tracker_daemon.run_delivery import RunDelivery
from tracker_daemon.settings import Settings
from tracker_daemon.upstream.forwarding import Forwarding
from tracker_protocol.v1 import tracker_pb2 as pb

until = pytest.upstream_until
OPTIONS = RunOptions("csv", "/root/out", 0, "")


def stream_id(number):
    return number.to_bytes(16, "big")


def hello(number, rank, **more):
    process = pb.Process(rank=rank, world_size=4, host="node7", pid=1000 + number, rank_source="the test")
    return pb.Hello(
        protocol_version=1,
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
        self.registry = Registry(default_options(self.settings), rules(self.settings), 5.0)
        self.recorder = Recorder(
            self.journal, recorder_settings(self.settings), self._on_tick, self.failures.append
        )
        self.fleet = Fleet(
            lambda work: self.recorder.call(work).result(),
            ScriptLinks(),
            open_lane=self._open_lane,
        )
        self.delivery = RunDelivery(
            self.fleet, self.registry, self._on_journal, lambda: self.journal.epoch, directory / "contents"
        )
        self.front = Forwarding(
            self.settings, self.journal, self.registry, self.recorder, self.fleet, self.delivery,
            directory / "contents", self._recall,
        )  # fmt: skip
        self._restore()
        self.care = asyncio.create_task(self._care())

    def _open_lane(self, run):
        return self.front.open_lane(run)

    def _restore(self):
        """Take up what the journal holds, as a daemon does."""
        for row in self.journal.runs():
            run = self.registry.restore(row, self.journal.streams(row.id))
            backlog = self.journal.backlog(row.id)
            run.live.view = replace(run.live.view, last_entry=backlog.entries, last_files=backlog.last_files)
            self.front.restored(run, backlog.cursors)
        runs = list(self.registry.runs.values())
        self.recorder.start(run.live for run in runs if run.running)
        for run in runs:
            self.delivery.restored(run)

    async def _on_journal(self, work):
        future: Future = self.recorder.call(work)
        return await asyncio.wrap_future(future)

    async def _recall(self, _):
        """Nothing is forgotten here."""

    def _on_tick(self, runs, submissions):
        streams = {submission.stream for submission in submissions if submission.stream}
        self.loop.call_soon_threadsafe(self._ticked, runs, streams)

    def _ticked(self, runs, streams):
        for stream in (self.registry.streams[one] for one in streams if one in self.registry.streams):
            if stream.connection is not None:
                stream.connection.wake()
        for run in runs:
            self.front.ticked(run)

    async def _care(self):
        """As the daemon does, but more often."""
        while True:
            self.front.look_after()
            self.delivery.look_after()
            await asyncio.sleep(0.002)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.care.cancel()
        await self.front.close()
        await asyncio.to_thread(self.fleet.stop, 20.0)
        await asyncio.to_thread(self.recorder.stop)
        self.journal.close()
        assert self.failures == []

    @property
    def run(self):
        return self.registry.runs["r-1"]

    async def come(self, number, rank, **more):
        session, welcome = await self.front.admit(hello(number, rank, **more))
        return session, welcome.welcome

    async def committed(self):
        await self._on_journal(lambda _: None)

    async def connected(self):
        """The root knows of a rank that it is here."""
        await until(lambda: self.server.connections and present(self.server), "the connection")

    def delivered(self):
        """How many batches the pump has counted as delivered."""
        health = self.fleet.health(self.run.live.row_id).get("upstream")
        return health.delivered_records if health else 0


@pytest.fixture
def play_node(play, tmp_path):
    """Runs a scenario over a node's daemon and its root."""

    def run(scenario):
        async def whole(server):
            async with Node(server, tmp_path / "state") as node:
                await scenario(node)

        play(whole)

    return run


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


# ---- who a rank is -------------------------------------------------------------------------------


def test_a_new_rank_is_who_the_root_says_that_it_is(play_node):
    async def scenario(node):
        session, welcome = await node.come(1, 0, names=["loss"], oldest_held=3, script_backends=["mine"])
        assert (welcome.run_id, welcome.run_name, welcome.next_step) == ("r-1", "digits", 40)
        assert list(welcome.backends) == ["csv", "mine"]
        assert list(welcome.script_backends) == ["mine"]
        assert (session.stream.attempt, welcome.next_sequence) == (1, 1)
        (asked,) = node.decisions.asked
        assert len(asked.node_id) == 16
        assert asked.hello.stream_id == stream_id(1)
        # The root has none of its batches, and its names are of this daemon's stream alone.
        assert (asked.hello.last_acknowledged, asked.hello.oldest_held, list(asked.hello.names)) == (0, 0, [])
        assert node.run.backends == ["upstream"]
        assert node.run.options.outdir == "/root/out"

    play_node(scenario)


def test_only_the_primary_rank_s_process_is_fed(play_node):
    async def scenario(node):
        _, welcome = await node.come(2, 1, script_backends=["mine"])
        assert list(welcome.backends) == ["csv", "mine"]
        assert list(welcome.script_backends) == []
        _, welcome = await node.come(1, 0, script_backends=["mine", "unknown"])
        assert list(welcome.script_backends) == ["mine"]

    play_node(scenario)


def test_a_rank_that_is_known_comes_back_without_the_root(play_node):
    async def scenario(node):
        session, _ = await node.come(1, 0, names=["loss"])
        node.front.left(session)
        await node.server.stop()
        again, welcome = await node.come(1, 0, names=["loss"])
        assert again.stream is session.stream
        assert list(welcome.backends) == ["csv", "mine"]
        assert len(node.decisions.asked) == 1

    play_node(scenario)


def test_a_new_rank_waits_for_a_root_that_is_away_and_leaves_nothing_behind(play_node):
    async def scenario(node):
        await node.server.stop()
        with pytest.raises(UpstreamUnavailable):
            await node.come(1, 0)
        assert not node.registry.runs
        assert not node.registry.streams

    play_node(scenario)


REFUSALS = [
    (grpc.StatusCode.ALREADY_EXISTS, ClientRefused),
    (grpc.StatusCode.INVALID_ARGUMENT, SettingsError),
]


@pytest.mark.parametrize(("code", "kind"), REFUSALS)
def test_what_the_root_refuses_is_refused_here_in_its_words(play_node, code, kind):
    async def scenario(node):
        node.decisions.refusal = code, "rank 0 is held by another process"
        with pytest.raises(kind, match=r"^rank 0 is held by another process$"):
            await node.come(1, 0)
        assert not node.registry.streams

    play_node(scenario)


def test_an_answer_of_another_kind_is_told_and_leaves_nothing_behind(play_node):
    async def scenario(node):
        node.decisions.options = '{"backends": 3}'
        with pytest.raises(ProtocolError, match="answers in an unknown way"):
            await node.come(1, 0)
        assert not node.registry.streams

    play_node(scenario)


def test_a_rank_that_comes_again_while_the_root_is_asked_is_one_rank(play_node):
    async def scenario(node):
        node.decisions.may_answer.clear()
        coming = [asyncio.create_task(node.come(1, 0, names=["loss"])) for _ in range(2)]
        await until(lambda: len(node.decisions.asked) == 2, "the root to be asked")
        node.decisions.may_answer.set()
        (first, _), (second, _) = await asyncio.gather(*coming)
        assert first.stream is second.stream
        second.stream.connection.take(batch(1))
        await node.committed()
        (row,) = node.journal.streams()
        assert row.next_sequence == 2

    play_node(scenario)


def test_a_daemon_that_forwards_decides_about_nobody_and_takes_no_node(play_node):
    async def scenario(node):
        told = pb.Node(node_id=b"m" * 16, run_id="r-1", host="node9")
        asks = [
            node.front.admit(pb.Hello(protocol_version=1, stream_id=stream_id(9), node=told)),
            node.front.admit_rank(pb.AdmitRequest(node_id=b"m" * 16, hello=hello(1, 0))),
        ]
        for ask in asks:
            with pytest.raises(SettingsError, match=r"only forwards, to 127\.0\.0\.1:\d+; name that one"):
                await ask

    play_node(scenario)


def test_the_root_has_what_a_rank_s_earlier_process_said_before_it_is_asked_about_the_next(play_node):
    async def scenario(node):
        first, _ = await node.come(1, 0)
        first.take(batch(1, config=['{"lr": 1}']))
        await node.committed()
        node.front.left(first)
        node.decisions.attempt = 2
        asked = len(node.decisions.asked)
        has = []
        admit = node.server.admit

        async def look(request, context):
            has.extend(part.body.config for body in said(node.server) for part in body.parts)
            return await admit(request, context)

        node.server.admit = look
        second, _ = await node.come(2, 0)
        assert len(node.decisions.asked) == asked + 1
        assert [list(config) for config in has] == [['{"lr": 1}']]
        assert (second.stream.attempt, node.run.attempt) == (2, 2)

    play_node(scenario)


# ---- what ranks say ------------------------------------------------------------------------------


def test_what_a_rank_logs_is_forwarded_under_its_stream_and_counted_once_acknowledged(play_node):
    async def scenario(node):
        session, _ = await node.come(1, 0)
        session.take(batch(1, config=['{"lr": 1}']))
        await until(lambda: session.all_committed, "the journal")
        await until(lambda: node.delivered() >= 1, "the root's acknowledgement")
        parts = [part for body in said(node.server) for part in body.parts]
        assert [(part.stream_id, list(part.body.config)) for part in parts] == [(stream_id(1), ['{"lr": 1}'])]
        assert not node.run.live.view.to_forward

    play_node(scenario)


def test_what_is_gathered_goes_up_at_the_pace_that_the_root_wants(play_node):
    async def scenario(node):
        session, _ = await node.come(1, 0)
        await node.connected()
        await node.server.connection.acknowledge(0, flush_interval_ms=3_600_000)
        forwarded = node.front._find(node.run)
        await until(lambda: forwarded.link.flush_interval_s() == 3600.0, "the pace")
        forwarded.cut_s = time.monotonic()
        session.take(batch(1, config=['{"lr": 1}']))
        await node.committed()
        for _ in range(5):
            node.front.look_after()
            await node.committed()
        assert node.run.live.view.to_forward
        assert said(node.server) == []
        forwarded.cut_s -= 3601.0
        await until(lambda: said(node.server), "the batch that is due")

    play_node(scenario)


def test_the_root_is_told_that_a_rank_has_left_once_it_has_all_that_the_rank_said(play_node):
    async def scenario(node):
        node.server.acknowledges = False
        session, _ = await node.come(1, 0)
        await node.come(2, 1)
        both = {stream_id(1), stream_id(2)}
        await node.connected()
        await until(lambda: present(node.server) == both, "both to be there")
        session.take(batch(1, config=["{}"]))
        node.front.left(session)
        connection = node.server.connection
        await until(lambda: connection.sequences == [1], "its last words")
        assert present(node.server) == both
        await connection.acknowledge(1)
        await until(lambda: present(node.server) == {stream_id(2)}, "that it has left")
        assert connection.of("presence")[-1].through_sequence == 1

    play_node(scenario)


def test_a_rank_that_is_back_before_its_leaving_was_told_has_not_left(play_node):
    async def scenario(node):
        node.server.acknowledges = False
        session, _ = await node.come(1, 0)
        session.take(batch(1, config=["{}"]))
        node.front.left(session)
        await node.connected()
        await until(lambda: node.server.connection.sequences == [1], "its last words")
        await node.come(1, 0)
        await node.server.connection.acknowledge(1)
        forwarded = node.front._find(node.run)
        await until(lambda: not forwarded.awaiting, "what was to be told")
        await node.committed()
        assert all(told.ranks for told in node.server.connection.of("presence")[1:])

    play_node(scenario)


def test_a_rank_s_wait_for_delivery_is_passed_on_once_the_root_has_everything(play_node):
    async def scenario(node):
        node.server.acknowledges = False
        session, _ = await node.come(1, 0)
        session.take(batch(1, config=["{}"]))
        session.take(pb.ClientMessage(await_delivery=pb.AwaitDelivery()))
        await node.connected()
        await until(lambda: node.server.connection.sequences == [1], "the batch")
        connection = node.server.connection
        assert connection.of("from_rank") == []
        await connection.acknowledge(1)
        await until(lambda: connection.of("from_rank"), "the question")
        (asked,) = connection.of("from_rank")
        assert (asked.stream_id, asked.message.WhichOneof("message")) == (stream_id(1), "await_delivery")

    play_node(scenario)


def test_what_else_ranks_say_to_the_root_is_passed_on_at_once(play_node):
    async def scenario(node):
        session, _ = await node.come(1, 0)
        await node.connected()
        session.take(pb.ClientMessage(handles_request=pb.HandlesRequest(backend="csv")))
        session.take(pb.ClientMessage(challenge_answer=pb.ChallengeAnswer(nonce=b"7")))
        session.take(pb.ClientMessage(backend_taken=pb.BackendTaken(backend="mine", entry=2)))
        connection = node.server.connection
        await until(lambda: len(connection.of("from_rank")) == 3, "all three")
        kinds = [told.message.WhichOneof("message") for told in connection.of("from_rank")]
        assert kinds == ["handles_request", "challenge_answer", "backend_taken"]

    play_node(scenario)


# ---- what the root says --------------------------------------------------------------------------


def test_what_the_root_sends_to_a_rank_reaches_that_rank_alone(play_node):
    async def scenario(node):
        session, _ = await node.come(1, 0)
        other, _ = await node.come(2, 1)
        await node.connected()
        for stream in (1, 55):
            message = pb.DaemonMessage(notice=pb.Notice(text="hear"))
            await node.server.connection.send(to_rank=pb.ToRank(stream_id=stream_id(stream), message=message))
        await until(lambda: session._outgoing, "the notice")
        assert [message.notice.text for message in session._outgoing] == ["hear"]
        assert other._outgoing == []

    play_node(scenario)


def test_a_run_that_the_root_has_ended_has_ended_here_as_it_says(play_node):
    async def scenario(node):
        session, _ = await node.come(1, 0)
        await node.connected()
        over = pb.RunOver(status="FAILED", reason="rank 3 on node9 lost contact")
        await node.server.connection.send(run_over=over)
        await until(lambda: not node.run.running, "the end")
        (row,) = node.journal.runs()
        assert (row.status, row.reason) == ("FAILED", "rank 3 on node9 lost contact")
        node.front.left(session)
        await until(lambda: node.server.connection.ended, "the connection to end, which nobody needs")

    play_node(scenario)


# ---- restarts ------------------------------------------------------------------------------------


def test_a_daemon_that_starts_again_goes_on_on_the_same_stream_after_what_was_acknowledged(play, tmp_path):
    async def scenario(server):
        async with Node(server, tmp_path / "state") as node:
            session, _ = await node.come(1, 0, names=["loss"])
            session.take(batch(1, config=['{"lr": 1}']))
            await until(lambda: node.delivered() == 1, "the first")
        first = server.connection
        async with Node(server, tmp_path / "state") as again:
            session, welcome = await again.come(1, 0, names=["loss"])
            assert welcome.next_sequence == 2
            assert again.decisions.asked == [], "who it is, is known"
            session.take(batch(2, config=['{"lr": 2}']))
            await until(lambda: again.delivered() == 2, "the second")
        second = server.connection
        assert second.hello.stream_id == first.hello.stream_id
        assert second.hello.last_acknowledged == 1
        assert [connection.sequences for connection in (first, second)] == [[1], [2]]

    play(scenario)


def test_what_the_root_got_though_its_acknowledgement_was_lost_is_not_sent_again(play, tmp_path):
    async def scenario(server):
        server.acknowledges, server.keeps_unacknowledged = False, True
        async with Node(server, tmp_path / "state") as node:
            session, _ = await node.come(1, 0)
            session.take(batch(1, config=["{}"]))
            await node.connected()
            await until(lambda: server.connection.sequences == [1], "the batch")
        async with Node(server, tmp_path / "state") as again:
            await again.come(1, 0)
            await until(lambda: again.delivered() == 1, "what the root says that it has")
        assert server.connection.hello.last_acknowledged == 0
        assert server.connection.sequences == []

    play(scenario)


def test_in_a_new_epoch_everything_goes_up_on_another_stream(play, tmp_path):
    """A rank was told that its batch is safe, and the journal does not have it."""

    async def scenario(server):
        async with Node(server, tmp_path / "state") as node:
            session, _ = await node.come(1, 0)
            session.take(batch(1, config=['{"lr": 1}']))
            await until(lambda: node.delivered() == 1, "the first")
        first = server.connection
        async with Node(server, tmp_path / "state") as again:
            session, welcome = await again.come(1, 0, last_acknowledged=5)
            assert (welcome.next_sequence, again.journal.epoch) == (6, 2)
            session.take(batch(6, config=['{"lr": 2}']))
            await until(lambda: configs(server.connection) == ['{"lr": 2}'], "the second")
        second = server.connection
        assert second.hello.stream_id != first.hello.stream_id
        assert (second.hello.last_acknowledged, second.sequences[0]) == (0, 1)
        notices = [text for body in map(pb.BatchBody.FromString, second.bodies) for text in body.notices]
        assert any("lost batches 2 to 5 of rank 0" in text for text in notices)

    play(scenario)
