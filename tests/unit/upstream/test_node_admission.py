"""Admission at a node's daemon: the root alone decides who a rank is, and is asked once for each rank."""

from __future__ import annotations

import asyncio
import threading

import grpc
import pytest

from tests.support.upstream.node_side import batch, hello, said, stream_id
from tests.support.upstream.root_server import until
from tracker_daemon.errors import ClientRefused, ProtocolError, SettingsError, UpstreamUnavailable
from tracker_protocol import PROTOCOL_VERSION
from tracker_protocol.v1 import tracker_pb2 as pb


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
        _, welcome = await node.come(3, 2, script_backends=["mine"])
        assert list(welcome.script_backends) == []

    play_node(scenario)


def test_a_rank_that_is_known_comes_back_without_the_root(play_node):
    async def scenario(node):
        session, _ = await node.come(1, 0, names=["loss"])
        node.admission.remove(session)
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
        with pytest.raises(ProtocolError, match="answer has options that cannot be read"):
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
        (row,) = await node.on_journal(lambda journal: journal.streams())
        assert row.next_sequence == 2

    play_node(scenario)


def test_a_rank_that_goes_away_while_it_is_let_in_does_not_stay_there(play_node):
    async def scenario(node):
        may_go_on = threading.Event()
        node.recorder.call(lambda _: may_go_on.wait(20))
        coming = asyncio.create_task(node.come(1, 0))
        await until(lambda: node.registry.connections, "the rank, whose coming is not journalled yet")
        coming.cancel()
        await asyncio.wait([coming])
        may_go_on.set()
        assert node.registry.connections == 0
        again, _ = await node.come(1, 0)
        assert again.stream is node.registry.streams[stream_id(1)]

    play_node(scenario)


def test_a_daemon_that_forwards_decides_about_nobody_and_takes_no_node(play_node):
    async def scenario(node):
        told = pb.Node(node_id=b"m" * 16, run_id="r-1", host="node9")
        asks = [
            node.admission.admit(
                pb.Hello(protocol_version=PROTOCOL_VERSION, stream_id=stream_id(9), node=told)
            ),
            node.admission.admit_rank(pb.AdmitRequest(node_id=b"m" * 16, hello=hello(1, 0))),
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
        node.admission.remove(first)
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
