"""Two claimants of a rank: who is asked, what counts as an answer, and who gets the rank."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.ingest.messages import hello
from tracker_daemon.errors import ClientRefused, RankHeld
from tracker_daemon.runs.claims import Claims

LONG_S = 60.0
SHORT_S = 0.05


class Asked:
    """A connection that notes what it is asked, and answers as ``answer`` says."""

    def __init__(self, answer=None):
        self.answer = answer
        self.nonces = []
        self.told = []

    def challenge(self, nonce):
        self.nonces.append(nonce)
        if self.answer is not None:
            asyncio.get_running_loop().call_soon(self.answer, nonce)

    def send_notice(self, text):
        self.told.append(text)

    def supersede(self):
        pass


def asked(number, rank=0, *, restarts=0, host="", **more):
    """A Hello of a client that answers challenges."""
    message = hello(number, rank, **more)
    message.answers_challenges = True
    message.process.restarts = restarts
    message.process.host = host or message.process.host
    return message


@pytest.fixture
def come(registry):
    """Admit a Hello at once and connect its stream."""

    def come(message, answer=None):
        admission = registry.admit(message)
        connection = Asked(answer)
        registry.connect(admission.stream, connection)
        admission.stream.run.live.row_id = 1
        return admission.stream, connection

    return come


def claim(registry, message, patience_s=LONG_S):
    return asyncio.run(Claims(registry, patience_s).admit(message))


def test_a_holder_that_answers_keeps_its_rank_and_both_are_named(registry, come):
    stream, connection = come(asked(1, 1))
    connection.answer = stream.note_contact
    with pytest.raises(
        ClientRefused, match=r"rank 1 .*process 1001 on node1.*process 1002 on node1.*the test"
    ):
        claim(registry, asked(2, 1))
    assert len(connection.nonces) == 1
    assert len(registry.streams) == 1


def test_a_holder_that_is_silent_loses_its_rank_to_the_next_attempt_and_is_told(registry, come):
    stream, connection = come(asked(1, 0))
    admission = claim(registry, asked(2, 0), SHORT_S)
    assert (admission.stream.attempt, admission.new_attempt) == (2, True)
    assert stream.attempt == 1
    (text,) = connection.told
    assert "attempt 2" in text
    assert "process 1002 on node0" in text


@pytest.mark.parametrize("what", [b"another nonce", None])
def test_only_the_right_answer_counts_of_a_client_that_answers(registry, come, what):
    stream, _ = come(asked(1, 0), lambda _: stream.note_contact(what))
    assert claim(registry, asked(2, 0), SHORT_S).stream.attempt == 2


def test_anything_counts_of_a_client_that_knows_no_challenges(registry, come):
    stream, _ = come(hello(1, 0), lambda _: stream.note_contact())
    with pytest.raises(ClientRefused):
        claim(registry, asked(2, 0))


def test_a_process_whose_connection_broke_answers_by_coming_back(registry, come):
    stream, connection = come(asked(1, 0))
    registry.disconnect(stream, connection)
    stream.reserved_until_s = time.monotonic() + LONG_S

    async def both():
        claiming = asyncio.create_task(Claims(registry, LONG_S).admit(asked(2, 0)))
        await asyncio.sleep(0)
        come(asked(1, 0))
        await claiming

    with pytest.raises(ClientRefused):
        asyncio.run(both())
    assert stream.run.attempt == 1


def test_the_rank_of_a_process_that_does_not_come_back_is_free(registry, come):
    stream, connection = come(asked(1, 0))
    registry.disconnect(stream, connection)
    assert stream.may_return()
    stream.reserved_until_s = time.monotonic() + SHORT_S
    assert claim(registry, asked(2, 0)).stream.attempt == 2


@pytest.mark.parametrize("how", ["finished", "lost"])
def test_a_rank_that_has_ended_is_not_waited_for(registry, come, how):
    stream, connection = come(asked(1, 0))
    registry.disconnect(stream, connection)
    setattr(stream, how, True)
    assert claim(registry, asked(2, 0)).stream.attempt == 2


def test_of_two_claimants_at_once_one_gets_the_rank_and_the_other_is_refused(registry, come):
    come(asked(1, 0))

    async def one(number):
        admission = await claims.admit(asked(number, 0))
        # the daemon connects it in the same breath; it answers when it is asked
        stream = admission.stream
        registry.connect(stream, Asked(stream.note_contact))
        return stream.pid

    async def both():
        return await asyncio.gather(one(2), one(3), return_exceptions=True)

    claims = Claims(registry, SHORT_S)
    outcomes = asyncio.run(both())
    assert sorted(map(type, outcomes), key=str) == sorted((int, RankHeld), key=str)


def test_a_claimant_that_goes_away_meanwhile_leaves_the_others_question_open(registry, come):
    stream, connection = come(asked(1, 0))

    async def scene():
        leaving, staying = (asyncio.create_task(claims.admit(asked(n, 0))) for n in (2, 3))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        stream.note_contact(connection.nonces[-1])
        await staying

    claims = Claims(registry, LONG_S)
    with pytest.raises(ClientRefused):
        asyncio.run(scene())


# ---- restarts ------------------------------------------------------------------------------------


def gone(registry, come, *messages):
    """These ranks came and their processes are dead; their ranks are still reserved."""
    for message in messages:
        stream, connection = come(message)
        registry.disconnect(stream, connection)
        stream.reserved_until_s = time.monotonic() + LONG_S
    return stream.run


def test_ranks_that_torchrun_has_started_again_are_not_asked_after(registry, come):
    run = gone(registry, come, asked(1, 0, host="a"), asked(2, 1, host="a"))
    # a rank that had not come before is the first of the restart: it belongs to the next attempt
    late = claim(registry, asked(13, 2, restarts=1, host="a", world=3))
    again = [claim(registry, asked(11 + r, r, restarts=1, host="a", world=3)) for r in (0, 1)]
    assert [admission.stream.attempt for admission in (late, *again)] == [2, 2, 2]
    assert run.attempt == 2


def test_each_host_s_agent_counts_its_own_restarts(registry, come):
    run = gone(registry, come, asked(1, 0, host="a"), asked(2, 1, host="b"))
    # b's agent started its rank again since a's had failed, which counts as no restart of its own
    run.streams[hello(2).stream_id].reserved_until_s = 0.0
    first = claim(registry, asked(12, 1, restarts=0, host="b"))
    registry.connect(first.stream, Asked())
    second = claim(registry, asked(11, 0, restarts=1, host="a"))
    assert [first.stream.attempt, second.stream.attempt] == [2, 2]


def test_torchrun_s_restart_goes_on_in_the_run_whose_ranks_had_all_failed(registry, come):
    run = gone(registry, come, asked(1, 0, host="a"))
    run.live.view = type(run.live.view)(status="FAILED", ended_ns=1)
    again = claim(registry, asked(2, 0, restarts=1, host="a"))
    assert again.stream.run is run
    assert (again.reopened, again.stream.attempt) == (True, 2)
    # the next launch under the same key counts from 0: it is its own run
    run.reopening = False
    assert claim(registry, asked(3, 0, host="a")).stream.run is not run


def test_a_launch_of_another_size_opens_the_next_attempt_whoever_comes_first(registry, come):
    run = gone(registry, come, asked(1, 0), asked(2, 1))
    for stream in run.current():
        stream.reserved_until_s = 0.0
    grown = [claim(registry, asked(20 + rank, rank, world=3)) for rank in (2, 0, 1)]
    assert [admission.stream.attempt for admission in grown] == [2, 2, 2]


def of_torchrun(number, rank, age_s, agent="agent"):
    message = asked(number, rank, host="a", world=2)
    message.process.agent, message.process.age_ms = agent, int(1000 * age_s)
    return message


@pytest.mark.parametrize("agent", ["agent", "the agent of a new node"])
def test_ranks_that_torchrun_starts_after_the_others_had_gone_are_the_next_attempt_whoever_comes_first(
    registry, come, agent
):
    run = gone(registry, come, of_torchrun(1, 0, 9.0))  # rank 1 was killed before it had a tracker
    for stream in run.current():
        stream.reserved_until_s, stream.last_seen_s = 0.0, time.monotonic() - 5.0
    renewed = [claim(registry, of_torchrun(11, 1, 1.0, agent)), claim(registry, of_torchrun(12, 0, 1.0))]
    assert [admission.stream.attempt for admission in renewed] == [2, 2]


@pytest.mark.parametrize(
    ("age_s", "agent", "finished"), [(6.0, "agent", False), (1.0, "", False), (1.0, "agent", True)],
    ids=["started with the others", "of another launcher", "the others finished"],
)  # fmt: skip
def test_a_rank_that_comes_late_joins_the_attempt_of_those_that_have_gone(
    registry, come, age_s, agent, finished
):
    run = gone(registry, come, of_torchrun(1, 0, 9.0))
    for stream in run.current():
        stream.finished, stream.last_seen_s = finished, time.monotonic() - 5.0
    assert claim(registry, of_torchrun(11, 1, age_s, agent)).stream.attempt == 1


def test_a_rank_that_states_another_size_beside_live_ones_joins_them(registry, come):
    come(asked(1, 0))
    assert claim(registry, asked(2, 2, world=3)).stream.attempt == 1
