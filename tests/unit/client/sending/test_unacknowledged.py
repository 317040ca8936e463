"""What is held until it is acknowledged: sequences, trimming, giving up and taking that back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_client.sending.unacknowledged import HeldBatch, LostRange, Unacknowledged
from tracker_client.transport.body import Body

ROWS = Body(b"x" * 1000, points=10, droppable=True)
NAMES = Body(b"n" * 10, names=("a",))


def held_with(*bodies):
    held = Unacknowledged()
    for body in bodies:
        held.append(body)
    return held


def send_all(held):
    sent = []
    while (item := held.next_to_send()) is not None:
        sent.append((item.first, item.last) if isinstance(item, LostRange) else item.sequence)
    return sent


def test_sequences_count_from_one_without_a_gap():
    assert send_all(held_with(*[ROWS] * 4)) == [1, 2, 3, 4]


def test_a_welcome_trims_what_the_daemon_has_and_the_rest_is_sent_again():
    held = held_with(*[ROWS] * 5)
    send_all(held)
    held.acknowledge(1)
    held.resume(4)
    assert send_all(held) == [4, 5]
    assert held.acknowledged == 3


def test_what_is_given_up_is_declared_in_its_place():
    held = held_with(NAMES, *[ROWS] * 5)
    held.shrink(3 * 1400 + 500)
    assert held.lost_points == 20
    assert send_all(held) == [1, (2, 3), 4, 5, 6]
    held.acknowledge(6)
    assert held.lost_points == 20
    assert held.held_bytes == held.held_points == held.held_batches == held.in_flight_bytes == 0


def test_names_and_the_last_batch_are_never_given_up():
    held = held_with(NAMES, ROWS, Body(b"config"), ROWS, Body(b"finish"))
    held.shrink(0)
    assert send_all(held) == [1, (2, 2), 3, (4, 4), 5]


def test_what_is_in_flight_is_not_given_up():
    held = held_with(*[ROWS] * 4)
    held.next_to_send()
    held.shrink(0)
    assert held.held_batches == 1
    assert send_all(held) == [(2, 4)]


def test_a_drop_that_the_daemon_turns_out_to_have_is_forgiven():
    held = held_with(*[ROWS] * 5)
    send_all(held)
    held.rewind()
    held.shrink(0)
    assert held.lost_points == 50
    held.resume(4)  # 1 to 3 had arrived; only their acknowledgement was lost
    assert held.lost_points == 20
    assert send_all(held) == [(4, 4), (5, 5)]
    held.acknowledge(5)
    assert held.lost_points == 20


def test_a_declared_loss_stays_a_loss_when_its_acknowledgement_is_lost():
    held = held_with(*[ROWS] * 2)
    held.shrink(0)
    assert send_all(held) == [(1, 2)]
    held.resume(3)
    assert held.lost_points == 20


def test_sequences_that_the_daemons_journal_lost_are_declared():
    held = held_with(*[ROWS] * 4)
    send_all(held)
    held.acknowledge(3)
    held.resume(2)
    assert send_all(held) == [(2, 3), 4]
    empty = held_with(ROWS)
    send_all(empty)
    empty.acknowledge(1)
    empty.resume(1)
    assert send_all(empty) == [(1, 1)]


def test_the_oldest_held_is_what_can_still_be_sent():
    held = held_with(*[ROWS] * 3)
    assert held.oldest_held == 1
    held.shrink(1500)
    assert held.oldest_held == 3
    held.shrink(0)
    assert held.oldest_held == held.next_sequence == 4


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.booleans()),
        st.tuples(st.just("send"), st.integers(0, 5)),
        st.tuples(st.just("arrive"), st.integers(0, 5)),
        st.tuples(st.just("acknowledge"), st.none()),
        st.tuples(st.just("break"), st.none()),
        st.tuples(st.just("shrink"), st.integers(0, 5000)),
    ),
    max_size=80,
)


@given(ACTIONS)
def test_against_a_model_the_daemon_sees_every_sequence_once_and_the_books_agree(actions):  # noqa: C901 - one model
    held, appended = Unacknowledged(), 0
    pipe, has, gap_points, next_sequence = [], 0, 0, 1

    def arrive(count):
        nonlocal next_sequence, has, gap_points
        for item in [pipe.pop(0) for _ in range(min(count, len(pipe)))]:
            if isinstance(item, HeldBatch):
                assert item.sequence == next_sequence
                has += item.body.points
                next_sequence += 1
            else:
                assert item.first == next_sequence
                gap_points += item.points
                next_sequence = item.last + 1

    def send(count):
        for _ in range(count):
            item = held.next_to_send()
            if item is None:
                return
            copy = (
                item
                if isinstance(item, HeldBatch)
                else LostRange(item.first, item.last, item.points, item.sent)
            )
            pipe.append(copy)

    for action, argument in actions:
        if action == "append":
            body = ROWS if argument else NAMES
            appended += body.points
            held.append(body)
        elif action == "send":
            send(argument)
        elif action == "arrive":
            arrive(argument)
        elif action == "acknowledge":
            held.acknowledge(next_sequence - 1)
        elif action == "break":
            pipe.clear()
            held.resume(next_sequence)
        else:
            held.shrink(argument)
    send(10**6)
    arrive(10**6)
    held.acknowledge(next_sequence - 1)
    assert held.held_bytes == held.held_points == held.held_batches == held.in_flight_bytes == 0
    assert has + gap_points == appended
    assert held.lost_points == gap_points


@pytest.mark.parametrize("next_sequence", [1, 3, 9])
def test_a_daemon_that_knows_more_than_was_sent_is_believed(next_sequence):
    held = held_with(ROWS)
    held.resume(next_sequence)
    held.append(ROWS)
    assert send_all(held)[-1] == max(2, next_sequence)
