"""The staging buffer: bounded, oldest-first, and every value counted once, whatever threads do."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.interruptions import at_each_opcode, in_a_thread
from tracker_client.staging.buffer import (
    FAST_ROW_BYTES_MAX,
    FAST_ROW_VALUES_MAX,
    ROW_BYTES,
    VALUE_BYTES,
    HeavyRow,
    StagingBuffer,
    StepShift,
    row_of,
)
from tracker_client.staging.lossy_queue import Dropped
from tracker_client.staging.rows import RowAssembler
from tracker_client.values.refusals import Refusals

BUDGET = 64 * FAST_ROW_BYTES_MAX


def append(buffer, row, step=None, commit=True):
    """What the fast path of ``Tracker.log`` does."""
    buffer.rows.append((step, 0, row, commit))
    if len(buffer.rows) > buffer.limit or len(row) > FAST_ROW_VALUES_MAX:
        buffer.make_room()


def weight(rows):
    return sum(ROW_BYTES + VALUE_BYTES * len(entry[2]) for entry in rows)


def take(buffer, most):
    return [entry for entry in buffer.take(most) if not isinstance(entry, Dropped)]


def take_all(buffer):
    taken = []
    while entries := take(buffer, 7):
        taken += entries
    return taken


@given(st.lists(st.integers(0, 300), max_size=400), st.integers(1, 40))
def test_the_budget_holds_and_every_value_is_taken_or_counted_as_dropped(widths, every):
    buffer = StagingBuffer(BUDGET, lambda: None)
    logged, taken = 0, 0
    for number, width in enumerate(widths):
        append(buffer, {str(key): 0.0 for key in range(width)})
        logged += width
        assert weight(buffer.rows) <= BUDGET + ROW_BYTES + VALUE_BYTES * 300
        if number % every == 0:
            taken += sum(len(row_of(entry)) for entry in take(buffer, 3))
    taken += sum(len(row_of(entry)) for entry in take_all(buffer))
    assert taken + buffer.dropped_points == logged
    assert buffer.count_points() == 0


def test_the_oldest_rows_go_first():
    buffer = StagingBuffer(BUDGET, lambda: None)
    rows = [{"a": float(number)} for number in range(10_000)]
    for row in rows:
        append(buffer, row)
    taken = take_all(buffer)
    kept = [entry[2] for entry in taken]
    assert 0 < len(kept) < len(rows)
    assert kept == rows[-len(kept) :]
    assert buffer.dropped_points == len(rows) - len(kept)


def test_drops_are_counted_exactly_while_threads_log_and_the_sender_takes():
    buffer = StagingBuffer(16 * FAST_ROW_BYTES_MAX, lambda: None)
    threads, calls = 6, 4_000
    taken = 0

    def log(thread):
        for number in range(calls):
            append(buffer, {str(key): 1.0 for key in range((thread + number) % 90)})

    workers = [threading.Thread(target=log, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        taken += sum(len(row_of(entry)) for entry in take(buffer, 5))
    taken += sum(len(row_of(entry)) for entry in take_all(buffer))
    logged = sum((thread + number) % 90 for thread in range(threads) for number in range(calls))
    assert taken + buffer.dropped_points == logged
    assert buffer.dropped_points > 0


def test_heavy_rows_weigh_what_they_say():
    buffer = StagingBuffer(BUDGET, lambda: None)
    texts = HeavyRow({"t": "x"}, BUDGET // VALUE_BYTES // 3, deferred=False)
    for _ in range(5):
        buffer.rows.append((None, 0, texts, True))
        buffer.make_room()
    assert len(buffer.rows) == 2
    assert buffer.dropped_points == 3


def test_the_sender_is_woken_once_when_the_buffer_is_half_full():
    wakes = []
    buffer = StagingBuffer(BUDGET, lambda: wakes.append(len(buffer.rows)))
    for _ in range(2_000):
        append(buffer, {"a": 1.0})
    assert len(wakes) == 1
    assert BUDGET // 2 <= wakes[0] * (ROW_BYTES + VALUE_BYTES) <= BUDGET
    take_all(buffer)
    for _ in range(2_000):
        append(buffer, {"a": 1.0})
    assert len(wakes) == 2


def test_a_smaller_budget_is_enforced_by_the_next_call():
    buffer = StagingBuffer(BUDGET, lambda: None)
    for _ in range(300):
        append(buffer, {"a": 1.0})
    buffer.set_budget(10 * (ROW_BYTES + VALUE_BYTES))
    append(buffer, {"a": 1.0})
    assert len(buffer.rows) <= 10


KEYS = st.none() | st.sampled_from([12, 3.0, 0.5, True, "4", 2**70])
CALLS = st.lists(st.tuples(st.none() | st.integers(-3, 8) | st.just(2**70), KEYS, st.booleans()))


@given(CALLS, CALLS, st.integers(0, 5))
def test_dropped_rows_use_up_steps_by_the_rules_of_other_rows(dropped, kept, start):
    def entries(calls):
        return [
            (step, 0, {"a": 1.0} if key is None else {"a": 1.0, "step": key}, commit)
            for step, key, commit in calls
        ]

    undisturbed, disturbed = RowAssembler(start, Refusals()), RowAssembler(start, Refusals())
    for entry in entries(dropped):
        undisturbed.add(entry)
    undisturbed.close()
    disturbed.skip(StepShift().then(entries(dropped)))
    expected = [row for entry in entries(kept) for row in undisturbed.add(entry)]
    found = [row for entry in entries(kept) for row in disturbed.add(entry)]
    assert [row._replace(number=0) for row in found] == [row._replace(number=0) for row in expected]


# ---- interruptions by signal handlers --------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
def test_a_call_that_is_interrupted_anywhere_loses_and_repeats_no_value_and_no_step(full):
    """The handler logs, and has the sender take everything, while the call stands still."""
    rows = 70 if full else 2
    row = {str(key): 1.0 for key in range(FAST_ROW_VALUES_MAX)}
    buffer, taken, logged = None, [], 0

    def log_until_full():
        nonlocal buffer, taken, logged
        buffer, taken, logged = None, [], rows
        buffer = StagingBuffer(BUDGET, lambda: None)
        for _ in range(rows):
            buffer.rows.append((None, 0, row, True))
        buffer.make_room()

    def take():
        taken.extend(buffer.take(1_000))

    def handler():
        nonlocal logged
        if buffer is not None:
            append(buffer, row)
            in_a_thread(take)
            append(buffer, row)
            logged += 2

    for _ in at_each_opcode(log_until_full, handler):
        take()
        kept = [one for one in taken if not isinstance(one, Dropped)]
        dropped = [one.summary for one in taken if isinstance(one, Dropped)]
        assert len(kept) + sum(one.shift.plus for one in dropped) == logged
        assert buffer.dropped_points == sum(one.points for one in dropped)
        assert sum(len(row_of(one)) for one in kept) + buffer.dropped_points == logged * len(row)


def test_a_handler_that_logs_on_and_on_during_a_call_that_makes_room_is_bounded():
    buffer = StagingBuffer(BUDGET, lambda: None)
    most = BUDGET // ROW_BYTES
    assert buffer._making_room.acquire(blocking=False)  # noqa: SLF001 - a call that stands still
    for number in range(3 * most):
        append(buffer, {"a": float(number)})
        assert len(buffer.rows) <= most + 1
    buffer._making_room.release()  # noqa: SLF001
    append(buffer, {"a": 0.0})
    assert weight(buffer.rows) <= BUDGET
    taken = take_all(buffer)
    assert len(taken) + buffer.dropped_points == 3 * most + 1
    assert [entry[2]["a"] for entry in taken[-3:]] == [3 * most - 2, 3 * most - 1, 0.0]
