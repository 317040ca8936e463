"""The sender's states: each event leads where the tables say, and deadlines end what they should."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_client.sending.state import (
    LINK_TRANSITIONS,
    NEVER,
    PARTING_TIMEOUT_S,
    STREAM_TRANSITIONS,
    ImpossibleTransition,
    LinkEvent,
    LinkMachine,
    LinkState,
    Patience,
    StreamEvent,
    StreamMachine,
    StreamState,
)
from tracker_protocol import limits

ORDER = list(StreamState)


def finishing(deadline=60.0):
    stream = StreamMachine()
    stream.finish_asked(deadline)
    return stream


def parting(now=5.0, **arguments):
    stream = finishing(**arguments)
    stream.last_batch_encoded()
    stream.all_acknowledged()
    stream.forwarded()
    stream.delivered()
    stream.backends_closed(now)
    return stream


def reachable(table, start):
    found, waiting = {start}, deque([start])
    while waiting:
        for state in table[waiting.popleft()].values():
            if state not in found:
                found.add(state)
                waiting.append(state)
    return found


# ---- the tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "states", "events"),
    [(LINK_TRANSITIONS, LinkState, LinkEvent), (STREAM_TRANSITIONS, StreamState, StreamEvent)],
)
def test_a_table_has_every_state_reaches_every_state_and_uses_every_event(table, states, events):
    assert set(table) == set(states)
    assert reachable(table, next(iter(states))) == set(states)
    assert {event for moves in table.values() for event in moves} == set(events)


def test_a_stream_only_moves_forward():
    for state, moves in STREAM_TRANSITIONS.items():
        assert all(ORDER.index(following) > ORDER.index(state) for following in moves.values())


def test_a_stream_that_finishes_can_end_in_every_state():
    for state in ORDER[1:-1]:
        assert STREAM_TRANSITIONS[state][StreamEvent.ENDED] is StreamState.ENDED


def test_a_link_can_be_closed_in_every_state_and_stays_closed():
    for moves in LINK_TRANSITIONS.values():
        assert moves[LinkEvent.ENDED] is LinkState.CLOSED
    assert set(LINK_TRANSITIONS[LinkState.CLOSED]) == {LinkEvent.ENDED}


# ---- the link ------------------------------------------------------------------------------------


def test_a_link_is_streaming_between_the_welcome_and_the_loss():
    link = LinkMachine()
    states = [link.state]
    for report in (lambda: link.opened(0.0), link.welcomed, link.lost, lambda: link.opened(1.0), link.lost):
        report()
        states.append(link.state)
    assert states == [
        LinkState.WAITING,
        LinkState.CONNECTING,
        LinkState.STREAMING,
        LinkState.WAITING,
        LinkState.CONNECTING,
        LinkState.WAITING,
    ]


def test_a_daemon_has_the_connect_timeout_for_its_welcome_and_no_deadline_afterwards():
    link = LinkMachine()
    assert link.deadline == NEVER
    link.opened(100.0)
    assert link.deadline == 100.0 + limits.CONNECT_TIMEOUT_S
    assert not link.is_overdue(link.deadline - 0.001)
    assert link.is_overdue(link.deadline)
    link.welcomed()
    assert link.deadline == NEVER
    assert not link.is_overdue(1e9)


def test_an_event_that_a_state_does_not_expect_names_both():
    with pytest.raises(ImpossibleTransition, match="WELCOMED is impossible in the state WAITING"):
        LinkMachine().welcomed()
    with pytest.raises(ImpossibleTransition, match="LAST_BATCH_ENCODED is impossible in the state OPEN"):
        StreamMachine().last_batch_encoded()


@given(st.lists(st.sampled_from(["opened", "welcomed", "lost"])))
def test_a_link_waits_for_a_deadline_exactly_while_it_is_connecting(reports):
    link = LinkMachine()
    for now, report in enumerate(reports):
        before = link.state
        try:
            link.opened(float(now)) if report == "opened" else getattr(link, report)()
        except ImpossibleTransition:
            assert link.state is before
        assert (link.deadline < NEVER) == (link.state is LinkState.CONNECTING)


# ---- the stream ----------------------------------------------------------------------------------


def test_rows_may_join_a_stream_until_its_last_batch():
    stream = StreamMachine()
    assert (stream.is_encoding, stream.is_finishing, stream.deadline) == (True, False, NEVER)
    stream.finish_asked(60.0)
    assert (stream.is_encoding, stream.is_finishing, stream.deadline) == (True, True, 60.0)
    stream.last_batch_encoded()
    assert (stream.is_encoding, stream.is_finishing, stream.deadline) == (False, True, 60.0)


def test_a_stream_that_did_everything_in_time_has_finished_and_parts_within_its_own_deadline():
    stream = parting(now=5.0, deadline=5.5)
    assert stream.finished
    assert stream.deadline == 5.0 + PARTING_TIMEOUT_S
    stream.ended()
    assert (stream.is_encoding, stream.is_finishing, stream.deadline) == (False, False, NEVER)
    assert stream.finished


def test_finish_is_asked_once():
    with pytest.raises(ImpossibleTransition):
        finishing().finish_asked(90.0)


def test_a_passed_deadline_gives_open_backends_an_overtime_once():
    stream = finishing(deadline=60.0)
    assert stream.is_overdue(60.0)
    assert stream.may_extend(backends_open=True)
    assert not stream.may_extend(backends_open=False)
    stream.extend(60.0)
    assert stream.patience is Patience.OVERTIME
    assert stream.deadline == 60.0 + limits.SCRIPT_CLOSE_S
    assert not stream.may_extend(backends_open=True)
    with pytest.raises(ImpossibleTransition):
        stream.extend(61.0)


def test_a_stream_that_needs_the_overtime_goes_on_but_has_not_finished():
    stream = finishing()
    stream.last_batch_encoded()
    stream.extend(60.0)
    stream.all_acknowledged()
    stream.forwarded()
    stream.delivered()
    stream.backends_closed(60.5)
    assert stream.state is StreamState.PARTING
    assert not stream.finished


def test_a_parting_stream_has_no_overtime():
    assert not parting().may_extend(backends_open=True)


def test_nothing_follows_the_end():
    stream = parting()
    stream.ended()
    for report in (stream.ended, stream.last_batch_encoded, stream.all_acknowledged, stream.delivered):
        with pytest.raises(ImpossibleTransition):
            report()
    assert stream.state is StreamState.ENDED
