"""A lane: batches reach the root once each and in order, whatever becomes of the connection."""

from __future__ import annotations

import asyncio
import random
from contextlib import closing
from itertools import pairwise

import grpc
import pytest

from tests.support.leaping_loop import LeapingLoop
from tests.support.upstream.root_server import until
from tracker_daemon.errors import JournalError, UpstreamUnavailable
from tracker_daemon.upstream.lane_stream import JournalledSequence, LaneStream
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

STREAM = b"s" * 16
MORE_THAN_HAS_ROOM = bytes(64 << 20)
"""As the body of one batch: it is not written before the root reads."""


class Far:
    """A lane to a root, and what comes of it."""

    def __init__(self, server, *, acknowledged=0, hello=None, backoff=None):
        self.server = server
        self.took = []
        self.connections = 0
        self.mark, self.ahead = JournalledSequence(1 << 40), []
        self.lane = LaneStream(
            server.root(), acknowledged, hello or self.hello, self.took.append, self.connected,
            self.mark, self.ahead.append, backoff,
        )  # fmt: skip

    async def hello(self, acknowledged):
        return pb.Hello(stream_id=STREAM, last_acknowledged=acknowledged)

    def connected(self):
        self.connections += 1

    async def ready(self, count=1):
        await until(lambda: self.connections >= count, f"the lane to be connected {count} times")
        return self.server.connection

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.lane.close()


class Waits:
    """Plays the back-off: no wait at all, but each is noted."""

    def __init__(self):
        self.after = []

    def wait_s(self, failures):
        self.after.append(failures)
        return 0.0


async def begun(delivery):
    """A delivery that has begun to write its first batch, for which there is no room."""
    task = asyncio.create_task(delivery)
    await asyncio.sleep(0)  # the first thing that a delivery waits for is its write
    assert not task.done()
    return task


def lane_tasks():
    """The tasks of lanes."""
    return [task for task in asyncio.all_tasks() if "LaneStream." in str(task)]


# ---- sequences and acknowledgements --------------------------------------------------------------


def test_batches_go_up_under_their_numbers_and_are_delivered_once_acknowledged(play):
    async def scenario(server):
        async with Far(server) as far:
            connection = await far.ready()
            await far.lane.deliver(1, [b"a", b"b"])
            await far.lane.deliver(3, [b"c"])
            assert connection.sequences == [1, 2, 3]
            assert connection.bodies == [b"a", b"b", b"c"]
            assert far.lane.acknowledged == 3
            assert connection.token == "Bearer the root's own token"

    play(scenario)


def test_a_delivery_waits_for_the_acknowledgement_of_its_last_batch(play):
    async def scenario(server):
        server.acknowledges = False
        async with Far(server) as far:
            connection = await far.ready()
            delivery = asyncio.create_task(far.lane.deliver(1, [b"a", b"b"]))
            await until(lambda: connection.sequences == [1, 2], "both batches")
            await connection.acknowledge(1)
            await until(lambda: far.lane.acknowledged == 1, "the first acknowledgement")
            assert not delivery.done()
            await connection.acknowledge(2)
            await delivery

    play(scenario)


def test_what_is_acknowledged_already_is_not_sent_again(play):
    async def scenario(server):
        async with Far(server) as far:
            connection = await far.ready()
            await far.lane.deliver(1, [b"a", b"b"])
            await far.lane.deliver(1, [b"a", b"b"])
            await far.lane.deliver(2, [b"b", b"c"])
            assert connection.sequences == [1, 2, 3]

    play(scenario)


def test_what_the_root_has_though_nobody_here_was_told_is_not_sent_again(play):
    async def scenario(server):
        server.next_sequence[STREAM] = 6  # acknowledged, but the cursor had no time to move
        async with Far(server, acknowledged=3) as far:
            connection = await far.ready()
            assert server.hellos[0].last_acknowledged == 3
            assert far.lane.acknowledged == 5
            await far.lane.deliver(4, [b"d", b"e"])
            assert connection.sequences == []
            await far.lane.deliver(6, [b"f"])
            assert connection.sequences == [6]

    play(scenario)


def test_an_acknowledgement_never_goes_back(play):
    async def scenario(server):
        async with Far(server, acknowledged=7) as far:
            connection = await far.ready()
            await connection.acknowledge(3, flush_interval_ms=900)
            await until(lambda: far.lane.flush_interval_s == 0.9, "the acknowledgement")
            assert far.lane.acknowledged == 7

    play(scenario)


def test_the_root_s_pace_and_whether_it_learns_are_taken_from_what_it_says(play):
    async def scenario(server):
        async with Far(server) as far:
            connection = await far.ready()
            assert far.lane.flush_interval_s == 0.7  # the Welcome's
            assert not far.lane.root_learns
            await connection.acknowledge(0, flush_interval_ms=1500, learning=True)
            await until(lambda: far.lane.root_learns, "the acknowledgement")
            assert far.lane.flush_interval_s == 1.5
            await connection.acknowledge(0)
            await until(lambda: not far.lane.root_learns, "the next one")

    play(scenario)


# ---- connections that break ----------------------------------------------------------------------


def test_before_there_is_a_connection_nothing_is_delivered_and_nobody_waits(play):
    async def scenario(server):
        far = Far(server)
        assert "is not connected yet" in far.lane.problem
        with pytest.raises(UpstreamUnavailable, match="is not connected yet"):
            await far.lane.deliver(1, [b"a"])
        await far.ready()
        assert far.lane.problem == ""
        await far.lane.close()

    play(scenario)


def test_a_delivery_fails_with_its_connection_and_the_next_brings_what_is_missing(play):
    async def scenario(server):
        server.acknowledges = False
        async with Far(server) as far:
            first = await far.ready()
            delivery = asyncio.create_task(far.lane.deliver(1, [b"a", b"b", b"c"]))
            await until(lambda: first.sequences == [1, 2, 3], "the batches")
            await first.acknowledge(1)
            await until(lambda: far.lane.acknowledged == 1, "the acknowledgement")
            server.acknowledges = True
            first.break_off()
            with pytest.raises(UpstreamUnavailable, match="gone"):
                await delivery
            second = await far.ready(2)
            assert second.hello.last_acknowledged == 1
            await far.lane.deliver(1, [b"a", b"b", b"c"])
            assert second.sequences == [2, 3]

    play(scenario)


def test_what_arrived_before_the_connection_broke_is_not_sent_again(play):
    async def scenario(server):
        server.acknowledges, server.keeps_unacknowledged = False, True
        async with Far(server) as far:
            first = await far.ready()
            delivery = asyncio.create_task(far.lane.deliver(1, [b"a", b"b"]))
            await until(lambda: first.sequences == [1, 2], "the batches")
            first.break_off()
            with pytest.raises(UpstreamUnavailable):
                await delivery
            second = await far.ready(2)
            await far.lane.deliver(1, [b"a", b"b"])
            assert second.sequences == []

    play(scenario)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK])
def test_a_delivery_that_waits_for_room_fails_with_its_connection_too(play, code):
    async def scenario(server):
        server.reads = False
        async with Far(server) as far:
            connection = await far.ready()
            delivery = await begun(far.lane.deliver(1, [MORE_THAN_HAS_ROOM]))
            server.reads = True
            connection.break_off(code)
            with pytest.raises(UpstreamUnavailable):
                await delivery
            await far.ready(2)
            await far.lane.deliver(1, [b"a"])

    play(scenario)


def test_a_root_that_ends_the_stream_by_itself_is_connected_to_again(play):
    async def scenario(server):
        async with Far(server) as far:
            (await far.ready()).break_off(grpc.StatusCode.OK)
            await far.ready(2)
            await far.lane.deliver(1, [b"a"])

    play(scenario)


def test_what_is_of_use_now_or_never_is_dropped_while_there_is_no_connection(play):
    async def scenario(server):
        far = Far(server)
        far.lane.send(pb.ClientMessage(presence=pb.Presence(through_sequence=1)))
        await far.ready()
        far.lane.send(pb.ClientMessage(presence=pb.Presence(through_sequence=2)))
        connection = server.connection
        await until(lambda: connection.of("presence"), "what was sent")
        assert [presence.through_sequence for presence in connection.of("presence")] == [2]
        await far.lane.close()

    play(scenario)


def test_what_is_sent_keeps_its_order(play):
    async def scenario(server):
        async with Far(server) as far:
            connection = await far.ready()
            for number in range(50):
                far.lane.send(pb.ClientMessage(presence=pb.Presence(through_sequence=number)))
            await until(lambda: len(connection.messages) == 50, "all of it")
            assert [p.through_sequence for p in connection.of("presence")] == list(range(50))

    play(scenario)


# ---- back-off ------------------------------------------------------------------------------------


def test_waits_grow_with_each_failure_and_begin_anew_after_a_connection(play):
    async def scenario(server):
        server.refusal = grpc.StatusCode.UNAVAILABLE, "not now"
        waits = Waits()
        async with Far(server, backoff=waits) as far:
            await until(lambda: len(waits.after) >= 3, "three failures")
            server.refusal = None
            connection = await far.ready()
            before = list(waits.after)
            assert before == list(range(1, len(before) + 1))
            connection.break_off()
            await far.ready(2)
            assert waits.after[len(before) :] == [1]

    play(scenario)


def test_a_root_that_is_down_is_waited_for_no_longer_than_a_client_would(monkeypatch):
    monkeypatch.setattr(random, "random", lambda: 1.0)  # each wait is as long as it can be
    attempts_s, enough = [], asyncio.Event()

    class Nowhere:
        def connection(self):
            attempts_s.append(asyncio.get_running_loop().time())
            if len(attempts_s) == 12:
                enough.set()
            raise UpstreamUnavailable("there is none")

    async def no_hello(_):
        raise AssertionError("nobody is there to greet")

    async def scenario():
        lane = LaneStream(Nowhere(), 0, no_hello, [].append, lambda: None, JournalledSequence(), pytest.fail)
        await enough.wait()
        await lane.close()

    with closing(LeapingLoop()) as loop:
        loop.run_until_complete(scenario())
    shortest_s, longest_s = limits.RECONNECT_BACKOFF_MIN_S, limits.RECONNECT_BACKOFF_MAX_S
    waits_s = [later - earlier for earlier, later in pairwise(attempts_s)]
    assert waits_s == pytest.approx([min(shortest_s * 2**n, longest_s) for n in range(11)])
    assert waits_s[-1] == pytest.approx(longest_s)


# ---- refusals ------------------------------------------------------------------------------------

REFUSALS = {
    "an unknown run": (grpc.StatusCode.ALREADY_EXISTS, "knows no run r", "knows no run r"),
    "a bad setting": (grpc.StatusCode.INVALID_ARGUMENT, "names none", "names none"),
    "a wrong token": (grpc.StatusCode.UNAUTHENTICATED, "no", "refuses the token: set upstream_token"),
    "another version": (grpc.StatusCode.UNIMPLEMENTED, "", "install the same version"),
    "anything else": (grpc.StatusCode.RESOURCE_EXHAUSTED, "too much", "cannot be reached (too much)"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "details", "said"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_shown_as_the_problem_until_it_is_over(play, code, details, said):
    async def scenario(server):
        server.refusal = code, details
        async with Far(server) as far:
            await until(lambda: said in far.lane.problem, f"the problem, which is {far.lane.problem!r}")
            with pytest.raises(UpstreamUnavailable) as refused:
                await far.lane.deliver(1, [b"a"])
            assert said in str(refused.value)
            server.refusal = None
            await far.ready()
            assert far.lane.problem == ""
            await far.lane.deliver(1, [b"a"])

    play(scenario)


def test_what_answers_without_a_welcome_is_no_root(play):
    async def scenario(server):
        server.answers_hello = False
        async with Far(server) as far:
            await until(lambda: "is no root" in far.lane.problem, "the problem")
            assert server.address in far.lane.problem

    play(scenario)


def test_whatever_goes_wrong_here_is_shown_and_tried_again(play):
    async def scenario(server):
        answers = [ValueError("an odd thing"), None]

        async def hello(acknowledged):
            if (failure := answers.pop(0)) is not None:
                raise failure
            return pb.Hello(stream_id=STREAM, last_acknowledged=acknowledged)

        waits = Waits()
        async with Far(server, hello=hello, backoff=waits) as far:
            await far.ready()
            assert waits.after == [1]
            await far.lane.deliver(1, [b"a"])

    play(scenario)


def test_a_lane_of_a_daemon_that_closes_its_journal_connects_no_more(play):
    async def scenario(server):
        async def hello(_):
            raise JournalError("closed")

        waits = Waits()
        far = Far(server, hello=hello, backoff=waits)
        await far.lane.wait_for_first_attempt()
        await until(lambda: not lane_tasks(), "the lane to give up")
        assert waits.after == []
        assert server.hellos == []
        with pytest.raises(UpstreamUnavailable):
            await far.lane.deliver(1, [b"a"])

    play(scenario)


# ---- what else comes, and the end ----------------------------------------------------------------


def test_all_that_comes_but_acknowledgements_is_handed_over_in_order(play):
    async def scenario(server):
        async with Far(server) as far:
            connection = await far.ready()
            await connection.send(to_rank=pb.ToRank(stream_id=b"r" * 16))
            await connection.acknowledge(0)
            await connection.send(run_over=pb.RunOver(status="FINISHED"))
            await connection.send(notice=pb.Notice(text="hear"))
            await until(lambda: len(far.took) == 3, "three messages")
            kinds = [message.WhichOneof("message") for message in far.took]
            assert kinds == ["to_rank", "run_over", "notice"]

    play(scenario)


def test_closing_ends_the_connection_and_whoever_waits_and_connects_no_more(play):
    async def scenario(server):
        server.acknowledges = False
        far = Far(server)
        connection = await far.ready()
        delivery = asyncio.create_task(far.lane.deliver(1, [b"a"]))
        await until(lambda: connection.sequences == [1], "the batch")
        await far.lane.close()
        with pytest.raises(UpstreamUnavailable):
            await delivery
        assert far.lane.connection is None
        assert far.lane.problem
        with pytest.raises(UpstreamUnavailable):
            await far.lane.deliver(1, [b"a"])
        far.lane.send(pb.ClientMessage(presence=pb.Presence()))
        await until(lambda: connection.ended, "the root to see it")
        assert len(server.hellos) == 1
        assert lane_tasks() == []

    play(scenario)


def test_closing_ends_a_delivery_that_waits_for_room_as_unavailable(play):
    async def scenario(server):
        server.reads = False
        far = Far(server)
        await far.ready()
        delivery = await begun(far.lane.deliver(1, [MORE_THAN_HAS_ROOM]))
        await far.lane.close()
        with pytest.raises(UpstreamUnavailable):
            await delivery

    play(scenario)


# ---- a journal that has lost something ---------------------------------------------------------------


def test_a_root_that_has_more_than_the_journal_is_noticed_and_gets_nothing_under_the_same_numbers(play):
    async def scenario(server):
        server.next_sequence[STREAM] = 6
        async with Far(server) as far:
            far.mark.highest = 4
            await until(lambda: far.ahead, "the root to be noticed")
            assert far.ahead[0] == 5
            with pytest.raises(UpstreamUnavailable):
                await far.lane.deliver(5, [b"another fifth"])
            assert (far.connections, server.connection.sequences) == (0, [])

    play(scenario)


def test_what_this_process_has_sent_is_no_news_from_the_root(play):
    async def scenario(server):
        async with Far(server) as far:
            far.mark.highest = 0
            await far.ready()
            await far.lane.deliver(1, [b"a", b"b"])
            server.connection.break_off()
            await far.ready(2)
            assert far.ahead == []

    play(scenario)
