"""Nodes' daemons at the root: when what they say of their ranks holds, and what passes through them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.support.ingest.clients import sent_by
from tests.support.ingest.messages import NODE, hello, stream_id
from tests.support.ingest.messages import batch_message as batch
from tracker_daemon.errors import ProtocolError
from tracker_daemon.ingest import nodes as nodes_module
from tracker_daemon.runs.overdue_ranks import find_silent_ranks
from tracker_protocol.v1 import tracker_pb2 as pb


def presence(*streams, through=0, **more):
    ranks = [pb.PresentRank(stream_id=stream_id(stream), **more) for stream in streams]
    return pb.ClientMessage(presence=pb.Presence(through_sequence=through, ranks=ranks))


def from_rank(stream, **message):
    told = pb.FromRank(stream_id=stream_id(stream), message=pb.ClientMessage(**message))
    return pb.ClientMessage(from_rank=told)


def notice(text):
    return pb.DaemonMessage(notice=pb.Notice(text=text))


async def told(session):
    """The notices that the node is to give its ranks, since the last call: (rank's stream, text)."""
    to_ranks = [message.to_rank for message in await sent_by(session) if message.HasField("to_rank")]
    return [(to_rank.stream_id, to_rank.message.notice.text) for to_rank in to_ranks]


# ---- presence ------------------------------------------------------------------------------------


def test_presence_holds_once_all_that_the_node_had_said_before_is_durable(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        session.take(batch(1, b""))
        await desk.committed(session)
        session.take(presence(1, 2, through=2))
        await desk.committed(session)
        assert desk.log == []
        session.take(batch(2, b""))
        assert desk.log == []
        await desk.committed(session)
        assert desk.log == [("came", 0), ("came", 1)]

    play_nodes(scenario)


def test_presence_without_a_batch_before_it_holds_at_once(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        session.take(presence(2, script_backends=["mine"], answers_challenges=True))
        assert desk.log == [("came", 1)]
        (present,) = desk.present
        assert present.answers_challenges
        assert list(present.script_backends) == ["mine"]

    play_nodes(scenario)


def test_a_rank_has_not_left_while_its_last_words_are_on_their_way(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        session.take(presence(1, 2))
        session.take(presence(2, through=1))
        stream = desk.run.streams[stream_id(1)]
        assert stream.connection is not None
        assert find_silent_ranks(desk.registry.runs.values(), 0.0) == {}
        session.take(batch(1, b""))
        await desk.committed(session)
        assert desk.log[2:] == [("left", 0)]
        assert stream.connection is None
        assert find_silent_ranks(desk.registry.runs.values(), 0.0) == {desk.run: [0]}

    play_nodes(scenario)


def test_only_what_was_announced_last_holds(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        session.take(presence(1, through=1))
        session.take(presence(2, through=1))
        session.take(batch(1, b""))
        await desk.committed(session)
        await desk.committed(session)
        assert desk.log == [("came", 1)]

    play_nodes(scenario)


def test_each_rank_comes_and_leaves_once(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        for message in (presence(1), presence(1), presence(1, 2), presence(1, 2), presence(), presence()):
            session.take(message)
        assert desk.log == [("came", 0), ("came", 1), ("left", 0), ("left", 1)]
        session.take(presence(1))
        assert desk.log[4:] == [("came", 0)]
        assert desk.registry.connections == 2  # the node's own and this one's

    play_nodes(scenario)


def test_a_stream_that_is_not_known_is_not_there(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        session.take(presence(1, 55))
        assert desk.log == [("came", 0)]

    play_nodes(scenario)


def test_with_the_node_s_connection_its_ranks_are_disconnected(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        session.take(presence(1, 2))
        session.take(presence(1, through=1))  # not yet true, and now never told to be
        session.link.detach(session)
        assert desk.log[2:] == [("left", 0), ("left", 1)]
        assert desk.run.is_disconnected()
        again = await desk.node()
        again.take(batch(1, b""))
        await desk.committed(again)
        assert len(desk.log) == 4, "what was announced on another connection holds no more"

    play_nodes(scenario)


def test_the_end_of_a_connection_whose_place_is_taken_changes_nothing(play_nodes):
    async def scenario(desk):
        first = await desk.node()
        second = await desk.node()
        second.take(presence(1))
        first.link.detach(first)
        assert desk.log == [("came", 0)]
        assert list(desk.nodes.connected()) == [second]

    play_nodes(scenario)


def test_what_a_connection_still_brings_whose_place_is_taken_is_not_taken(play_nodes):
    async def scenario(desk):
        first = await desk.node()
        second = await desk.node()
        second.take(presence(1, 2))
        first.take(presence(1))
        first.take(from_rank(2, await_delivery=pb.AwaitDelivery()))
        assert desk.log == [("came", 0), ("came", 1)]
        assert desk.awaited == []

    play_nodes(scenario)


def test_a_lane_for_files_says_nothing_of_ranks(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        files = await desk.node(stream=101, files_lane=True)
        session.take(presence(1, through=1))
        files.take(batch(1, b""))
        await desk.committed(files)
        assert desk.log == []
        assert list(desk.nodes.connected()) == [session]

    play_nodes(scenario)


# ---- to and from ranks ---------------------------------------------------------------------------


def test_what_a_rank_says_through_its_node_is_taken_as_if_it_were_here(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        answers = []
        session.take(presence(1))
        relayed = session.link.relayed[stream_id(1)]
        relayed.on_taken = answers.append
        desk.run.backends.append("csv")
        session.take(from_rank(1, await_delivery=pb.AwaitDelivery()))
        session.take(from_rank(1, await_delivery=pb.AwaitDelivery(files=True)))
        session.take(from_rank(1, handles_request=pb.HandlesRequest(backend="csv")))
        session.take(from_rank(1, backend_taken=pb.BackendTaken(backend="mine", entry=3)))
        assert desk.awaited == [(relayed.stream.rank, False), (relayed.stream.rank, True)]
        assert list(relayed.asked_handles) == ["csv"]
        assert [answer.entry for answer in answers] == [3]

    play_nodes(scenario)


def test_what_comes_of_a_rank_that_is_not_there_is_of_no_use(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        session.take(presence(1))
        session.take(from_rank(2, await_delivery=pb.AwaitDelivery()))
        session.take(from_rank(55, await_delivery=pb.AwaitDelivery()))
        assert desk.awaited == []

    play_nodes(scenario)


DATA = {
    "batch": pb.Batch(sequence=1),
    "gap": pb.Gap(from_sequence=1, to_sequence=1),
    "heartbeat": pb.Heartbeat(flushed_through=1),
    "hello": hello(1),
    "from_rank": pb.FromRank(stream_id=stream_id(1)),
    "presence": pb.Presence(),
}


@pytest.mark.parametrize("kind", DATA)
def test_what_a_rank_logs_is_never_relayed(play_nodes, kind):
    async def scenario(desk):
        session = await desk.node()
        session.take(presence(1))
        with pytest.raises(ProtocolError):
            session.take(from_rank(1, **{kind: DATA[kind]}))
        assert desk.run.streams[stream_id(1)].next_sequence == 1

    play_nodes(scenario)


def test_what_is_sent_to_a_rank_goes_through_its_node_and_names_it(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        session.take(presence(1, 2))
        desk.run.streams[stream_id(2)].connection.send_notice("hear")
        assert await told(session) == [(stream_id(2), "hear")]

    play_nodes(scenario)


def test_everything_of_a_relayed_rank_is_durable_once_its_node_s_is(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        session.take(presence(1))
        relayed = session.link.relayed[stream_id(1)]
        assert relayed.all_committed
        session.take(batch(1, b""))
        assert not relayed.all_committed
        await desk.committed(session)
        assert relayed.all_committed

    play_nodes(scenario)


def test_what_cannot_be_sent_yet_is_kept_in_order_within_bounds_and_sent_on_attach(play_nodes, monkeypatch):
    monkeypatch.setattr(nodes_module, "_KEPT_MESSAGES_MAX", 5)

    async def scenario(desk):
        link = desk.nodes.link(NODE, desk.run)
        for number in range(8):
            link.send(pb.ToRank(stream_id=stream_id(1), message=notice(str(number))))
        session = await desk.node()
        assert await told(session) == [(stream_id(1), str(number)) for number in range(3, 8)]
        session.link.detach(session)
        link.send(pb.ToRank(stream_id=stream_id(1), message=notice("later")))
        again = await desk.node()
        assert await told(again) == [(stream_id(1), "later")], "what was sent once is not sent again"

    play_nodes(scenario)


# ---- the run's end -------------------------------------------------------------------------------


def test_a_node_is_told_once_that_its_run_is_over_and_how(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        desk.nodes.poll()
        assert await sent_by(session) == []
        desk.end("FAILED", "rank 1 was lost")
        for _ in range(3):
            desk.nodes.poll()
        (message,) = await sent_by(session)
        assert message.run_over == pb.RunOver(status="FAILED", reason="rank 1 was lost")

    play_nodes(scenario)


def test_the_end_of_a_run_is_sent_without_a_wait_for_the_next_poll_to_its_nodes_alone(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        desk.nodes.send_run_ended(desk.run.run_id)
        assert await sent_by(session) == []
        desk.end()
        desk.nodes.send_run_ended("another run")
        assert await sent_by(session) == []
        desk.nodes.send_run_ended(desk.run.run_id)
        desk.nodes.poll()
        assert [message.WhichOneof("message") for message in await sent_by(session)] == ["run_over"]

    play_nodes(scenario)


def test_a_node_is_told_again_after_a_reopening_and_on_another_connection(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        desk.end()
        desk.nodes.poll()
        desk.end("RUNNING", "")
        desk.nodes.poll()
        desk.end("FAILED", "once more")
        desk.nodes.poll()
        reasons = [message.run_over.reason for message in await sent_by(session)]
        assert reasons == ["as it should", "once more"]
        again = await desk.node()
        desk.nodes.poll()
        desk.nodes.poll()
        assert [message.WhichOneof("message") for message in await sent_by(again)] == ["run_over"]

    play_nodes(scenario)


def test_links_that_nobody_needs_any_more_are_forgotten(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        link = session.link
        desk.nodes.poll()
        assert desk.nodes.link(NODE, desk.run) is link
        desk.end()
        desk.nodes.poll()
        assert desk.nodes.link(NODE, desk.run) is link, "its node is connected still"
        link.detach(session)
        desk.nodes.poll()
        assert desk.nodes.link(NODE, desk.run) is not link

    play_nodes(scenario)


def test_each_node_and_each_run_has_a_link_of_its_own(play_nodes):
    async def scenario(desk):
        link = desk.nodes.link(NODE, desk.run)
        assert desk.nodes.link(NODE, desk.run) is link
        assert desk.nodes.link(b"m" * 16, desk.run) is not link
        recalled = replace(desk.run, streams={})
        assert desk.nodes.link(NODE, recalled).run is recalled

    play_nodes(scenario)


def test_a_node_is_told_when_its_ranks_flushes_begin_and_cease_to_matter(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        replies = session.replies()

        def change(learning):
            desk.run.live.view = replace(desk.run.live.view, learning=learning)
            desk.nodes.poll()

        async def learning(reply):
            return (await asyncio.wait_for(reply, 20)).acknowledgement.learning

        await desk.committed(session)
        desk.nodes.poll()
        assert await learning(anext(replies)) is False
        change(learning=True)
        assert await learning(anext(replies)) is True
        desk.nodes.poll()
        next_reply = asyncio.ensure_future(anext(replies))
        await asyncio.sleep(0)  # lets the connection look once whether there is a reply
        assert not next_reply.done(), "nothing new is to be told"
        change(learning=False)
        assert await learning(next_reply) is False

    play_nodes(scenario)
