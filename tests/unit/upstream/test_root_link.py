"""A link: what one run's two lanes introduce themselves as, and what is told of ranks, and asked again."""

from __future__ import annotations

from itertools import combinations

import pytest

from tests.support.upstream.root_server import NODE, Tied, until
from tracker_daemon.backends.root import LanePosition
from tracker_daemon.upstream.lane_stream import JournalledSequence
from tracker_daemon.upstream.root_link import RootLink, ThisNode
from tracker_protocol.v1 import tracker_pb2 as pb

RANK, OTHER = b"r" * 16, b"o" * 16


def present(stream, **more):
    return pb.PresentRank(stream_id=stream, **more)


def asks_delivery():
    return pb.ClientMessage(await_delivery=pb.AwaitDelivery())


def asks_handles(backend):
    return pb.ClientMessage(handles_request=pb.HandlesRequest(backend=backend))


# ---- streams -------------------------------------------------------------------------------------


def test_stream_ids_differ_by_epoch_lane_run_and_node_and_by_nothing_else():
    others = {
        "the epoch": NODE.stream_id("run-1", 2, files=False),
        "the lane": NODE.stream_id("run-1", 1, files=True),
        "the run": NODE.stream_id("run-2", 1, files=False),
        "the node": ThisNode(b"m" * 16, "node7", 77).stream_id("run-1", 1, files=False),
        "none": NODE.stream_id("run-1", 1, files=False),
    }
    for (one, first), (other, second) in combinations(others.items(), 2):
        assert first != second, f"{one} and {other}"
    assert {len(stream) for stream in others.values()} == {16}
    # Another process, or another name of the host, goes on with the same stream.
    assert ThisNode(NODE.id, "renamed", 1).stream_id("run-1", 1, files=False) == others["none"]


def test_no_run_s_name_makes_its_stream_another_run_s():
    assert NODE.stream_id("run-1", 1, files=False) != NODE.stream_id("run-", 11, files=False)
    assert NODE.stream_id("a", 11, files=False) != NODE.stream_id("a1", 1, files=False)


def test_a_lane_introduces_the_node_the_run_and_the_whole_dictionary(play):
    async def scenario(server):
        async with Tied(server, epoch=3, sequence=8) as tied:
            hello = (await tied.ready()).hello
            assert hello.stream_id == NODE.stream_id("run-1", 3, files=False)
            assert hello.last_acknowledged == 8
            assert list(hello.names) == ["loss", "lr"]
            node = hello.node
            assert (node.node_id, node.run_id, node.host, node.pid) == (b"n" * 16, "run-1", "node7", 77)
            assert not node.files_lane
            tied.names.append("grad")
            again = await tied.reconnected(2)
            assert list(again.hello.names) == ["loss", "lr", "grad"]
            assert again.hello.stream_id == hello.stream_id

    play(scenario)


def test_the_lane_for_files_is_a_stream_of_its_own_that_has_no_names(play):
    async def scenario(server):
        async with Tied(server) as tied:
            await tied.ready()
            lane = tied.link.lane(LanePosition(1, 4), files=True)
            hello = (await tied.ready(2)).hello
            assert hello.node.files_lane
            assert hello.stream_id == NODE.stream_id("run-1", 1, files=True)
            assert (list(hello.names), hello.last_acknowledged) == ([], 4)
            assert tied.link.lane(LanePosition(1, 5), files=True) is lane, "what it knows goes before"

    play(scenario)


def test_another_epoch_is_another_lane_and_ends_the_one_before(play):
    async def scenario(server):
        async with Tied(server, sequence=9) as tied:
            first = await tied.ready()
            lane = tied.link.lane(LanePosition(2, 0))
            second = await tied.ready(2)
            assert (second.hello.stream_id, second.hello.last_acknowledged) == (
                NODE.stream_id("run-1", 2, files=False), 0,
            )  # fmt: skip
            await lane.deliver(1, [b"a"])
            assert (first.sequences, second.sequences) == ([], [1])
            await until(lambda: first.ended, "the end of the lane before")

    play(scenario)


# ---- presence ------------------------------------------------------------------------------------


def ranks_told(connection):
    return [sorted(rank.stream_id for rank in told.ranks) for told in connection.of("presence")]


def test_presence_is_told_with_each_connection_and_each_change(play):
    async def scenario(server):
        async with Tied(server) as tied:
            first = await tied.ready()
            await until(lambda: ranks_told(first) == [[]], "that nobody is there")
            tied.link.add_rank(present(RANK, answers_challenges=True, script_backends=["mine"]))
            tied.link.add_rank(present(OTHER))
            await until(lambda: ranks_told(first)[1:] == [[RANK], sorted([RANK, OTHER])], "who has come")
            (told,) = first.of("presence")[1].ranks
            assert told.answers_challenges
            assert list(told.script_backends) == ["mine"]
            tied.link.remove_rank(RANK)
            await until(lambda: ranks_told(first)[3:] == [[OTHER]], "who has left")
            second = await tied.reconnected(2)
            await until(lambda: ranks_told(second) == [[OTHER]], "who is there")

    play(scenario)


def test_presence_holds_from_what_the_root_has_when_it_is_told(play):
    async def scenario(server):
        async with Tied(server, sequence=2) as tied:
            connection = await tied.ready()
            await tied.lane.deliver(3, [b"a", b"b"])
            tied.link.add_rank(present(RANK))
            await until(lambda: len(connection.of("presence")) == 2, "what is told")
            assert [told.through_sequence for told in connection.of("presence")] == [2, 4]

    play(scenario)


def test_who_was_not_there_leaves_unnoticed(play):
    async def scenario(server):
        async with Tied(server) as tied:
            connection = await tied.ready()
            tied.link.remove_rank(RANK)
            tied.link.add_rank(present(OTHER))
            await until(lambda: len(ranks_told(connection)) == 2, "who has come")
            assert ranks_told(connection) == [[], [OTHER]]

    play(scenario)


def test_ranks_that_come_before_there_is_a_connection_are_told_with_it(play):
    async def scenario(server):
        async with Tied(server) as tied:
            tied.link.add_rank(present(RANK))
            connection = await tied.ready()
            await until(lambda: ranks_told(connection), "who is there")
            assert ranks_told(connection) == [[RANK]]

    play(scenario)


# ---- questions -----------------------------------------------------------------------------------


def asked(connection):
    """What was relayed: (rank, kind), in order."""
    return [(told.stream_id, told.message.WhichOneof("message")) for told in connection.of("from_rank")]


async def settled(tied, connection):
    """Everything that the link had to say on this connection has come."""
    marker = b"m" * 16
    tied.link.send_from_rank(marker, pb.ClientMessage())
    await until(lambda: (marker, None) in asked(connection), "what was sent last")
    return [entry for entry in asked(connection) if entry[0] != marker]


def test_an_unanswered_question_is_asked_again_with_each_connection(play):
    async def scenario(server):
        async with Tied(server) as tied:
            first = await tied.ready()
            tied.link.send_from_rank(RANK, asks_delivery())
            tied.link.send_from_rank(RANK, asks_handles("csv"))
            tied.link.send_from_rank(RANK, asks_handles("mine"))
            questions = [(RANK, "await_delivery"), (RANK, "handles_request"), (RANK, "handles_request")]
            assert await settled(tied, first) == questions
            for count in (2, 3):
                again = await tied.reconnected(count)
                await tied.ready(count)
                assert await settled(tied, again) == questions
                handles = [told.message.handles_request.backend for told in again.of("from_rank")]
                assert [name for name in handles if name] == ["csv", "mine"]

    play(scenario)


def test_the_same_question_twice_is_asked_again_once(play):
    async def scenario(server):
        async with Tied(server) as tied:
            await tied.ready()
            for _ in range(2):
                tied.link.send_from_rank(RANK, asks_delivery())
                tied.link.send_from_rank(RANK, asks_handles("csv"))
            again = await tied.reconnected(2)
            await tied.ready(2)
            assert await settled(tied, again) == [(RANK, "await_delivery"), (RANK, "handles_request")]

    play(scenario)


def test_a_question_that_is_answered_is_not_asked_again(play):
    async def scenario(server):
        async with Tied(server) as tied:
            await tied.ready()
            tied.link.send_from_rank(RANK, asks_delivery())
            tied.link.send_from_rank(OTHER, asks_delivery())
            tied.link.note_delivered(RANK)
            again = await tied.reconnected(2)
            await tied.ready(2)
            assert await settled(tied, again) == [(OTHER, "await_delivery")]

    play(scenario)


def test_the_questions_of_a_rank_that_has_left_are_asked_no_more(play):
    async def scenario(server):
        async with Tied(server) as tied:
            await tied.ready()
            for rank in (RANK, OTHER):
                tied.link.add_rank(present(rank))
                tied.link.send_from_rank(rank, asks_delivery())
                tied.link.send_from_rank(rank, asks_handles("csv"))
            tied.link.remove_rank(RANK)
            again = await tied.reconnected(2)
            await tied.ready(2)
            assert await settled(tied, again) == [(OTHER, "await_delivery"), (OTHER, "handles_request")]

    play(scenario)


def test_a_question_that_was_asked_while_there_was_no_connection_is_asked_with_the_next(play):
    async def scenario(server):
        async with Tied(server) as tied:
            tied.link.send_from_rank(RANK, asks_delivery())
            connection = await tied.ready()
            assert await settled(tied, connection) == [(RANK, "await_delivery")]

    play(scenario)


def test_what_is_no_question_is_relayed_once_and_never_again(play):
    async def scenario(server):
        async with Tied(server) as tied:
            first = await tied.ready()
            tied.link.send_from_rank(RANK, pb.ClientMessage(challenge_answer=pb.ChallengeAnswer(nonce=b"7")))
            tied.link.send_from_rank(RANK, pb.ClientMessage(backend_taken=pb.BackendTaken(backend="mine")))
            assert await settled(tied, first) == [(RANK, "challenge_answer"), (RANK, "backend_taken")]
            again = await tied.reconnected(2)
            await tied.ready(2)
            assert await settled(tied, again) == []

    play(scenario)


def test_a_warning_that_comes_while_the_root_is_away_is_sent_once_it_is_back(play):
    async def scenario(server):
        async with Tied(server) as tied:
            connection = await tied.ready()
            connection.break_off()
            await until(lambda: tied.link.lane(LanePosition(1, 0)).connection is None, "the break")
            tied.link.send_from_rank(RANK, pb.ClientMessage(warning=pb.Warning(text="no")))
            for count in (2, 3):
                again = await tied.ready(count)
                assert await settled(tied, again) == [(RANK, "warning")] * (count == 2)
                if count == 2:
                    await tied.reconnected(3)

    play(scenario)


def test_who_is_there_is_told_before_what_they_ask(play):
    """The root takes nothing from a rank that it does not know to be there."""

    async def scenario(server):
        async with Tied(server) as tied:
            tied.link.add_rank(present(RANK))
            tied.link.send_from_rank(RANK, asks_delivery())
            connection = await tied.ready()
            await settled(tied, connection)
            kinds = [message.WhichOneof("message") for message in connection.messages]
            assert kinds == ["presence", "from_rank", "from_rank"]

    play(scenario)


# ---- what the root says, and the end -------------------------------------------------------------


def test_what_the_root_says_is_taken_from_both_lanes(play):
    async def scenario(server):
        async with Tied(server) as tied:
            first = await tied.ready()
            tied.link.lane(LanePosition(1, 0), files=True)
            second = await tied.ready(2)
            for connection in (first, second):
                await connection.send(run_over=pb.RunOver(status="FINISHED"))
            await until(lambda: len(tied.took) == 2, "both")

    play(scenario)


def test_the_pace_and_the_learning_are_those_of_the_lane_for_batches(play):
    async def scenario(server):
        link = RootLink(
            server.root(),
            NODE,
            "run-1",
            lambda: None,
            print,
            lambda _: None,
            lambda *_: JournalledSequence(1 << 40),
            pytest.fail,
        )
        assert (link.flush_interval_s(), link.root_learns) == (None, False)
        async with Tied(server) as tied:
            connection = await tied.ready()
            assert tied.link.flush_interval_s() == 0.7
            await connection.acknowledge(0, flush_interval_ms=300, learning=True)
            await until(lambda: tied.link.root_learns, "the acknowledgement")
            assert tied.link.flush_interval_s() == 0.3

    play(scenario)


def test_closing_ends_both_lanes_and_what_comes_after_is_told_nobody(play):
    async def scenario(server):
        tied = Tied(server)
        tied.link.lane(LanePosition(1, 0), files=True)
        await server.connected(2)
        await tied.ready(2)
        await tied.link.close()
        for connection in server.connections:
            await until(lambda connection=connection: connection.ended, "the end of the connection")
        tied.link.add_rank(present(RANK))
        tied.link.send_from_rank(RANK, asks_delivery())
        tied.link.remove_rank(RANK)
        assert (tied.link.flush_interval_s(), tied.link.root_learns) == (None, False)
        assert len(server.hellos) == 2

    play(scenario)
