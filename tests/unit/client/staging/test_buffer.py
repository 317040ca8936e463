"""The staging buffer: bounded, oldest-first, and every value counted once, whatever threads do."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from tracker_client.staging.buffer import (
    FAST_ROW_BYTES_MAX,
    FAST_ROW_VALUES_MAX,
    NO_SHIFT,
    ROW_BYTES,
    VALUE_BYTES,
    HeavyRow,
    StagingBuffer,
    StepShift,
    row_of,
)
from tracker_client.staging.rows import RowAssembler

BUDGET = 64 * FAST_ROW_BYTES_MAX


def append(buffer, row, step=None, commit=True):
    """What the fast path of ``Tracker.log`` does."""
    buffer.rows.append((step, 0, row, commit))
    if len(buffer.rows) > buffer.limit or len(row) > FAST_ROW_VALUES_MAX:
        buffer.make_room()


def weight(rows):
    return sum(ROW_BYTES + VALUE_BYTES * len(entry[2]) for entry in rows)


def take_all(buffer):
    taken, shift = [], NO_SHIFT
    while True:
        one, entries = buffer.take(7)
        shift = one if shift == NO_SHIFT else shift
        taken += entries
        if not entries:
            return shift, taken


@given(st.lists(st.integers(0, 300), max_size=400), st.integers(1, 40))
def test_the_budget_holds_and_every_value_is_taken_or_counted_as_dropped(widths, every):
    buffer = StagingBuffer(BUDGET, lambda: None)
    logged, taken = 0, 0
    for number, width in enumerate(widths):
        append(buffer, {str(key): 0.0 for key in range(width)})
        logged += width
        assert weight(buffer.rows) <= BUDGET + ROW_BYTES + VALUE_BYTES * 300
        if number % every == 0:
            taken += sum(len(row_of(entry)) for entry in buffer.take(3)[1])
    taken += sum(len(row_of(entry)) for entry in take_all(buffer)[1])
    assert taken + buffer.dropped_points == logged
    assert buffer.count_points() == 0


def test_the_oldest_rows_go_first():
    buffer = StagingBuffer(BUDGET, lambda: None)
    rows = [{"a": float(number)} for number in range(10_000)]
    for row in rows:
        append(buffer, row)
    _, taken = take_all(buffer)
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
        taken += sum(len(row_of(entry)) for entry in buffer.take(5)[1])
    taken += sum(len(row_of(entry)) for entry in take_all(buffer)[1])
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


CALLS = st.lists(st.tuples(st.none() | st.integers(-3, 8), st.booleans()))


@given(CALLS, CALLS, st.integers(0, 5))
def test_steps_count_on_over_dropped_rows(dropped, kept, start):
    def entries(calls):
        return [(step, 0, {"a": 1.0}, commit) for step, commit in calls]

    undisturbed, disturbed = RowAssembler(start), RowAssembler(start)
    for entry in entries(dropped):
        undisturbed.add(entry)
    undisturbed.close()
    disturbed.skip(StepShift().then(entries(dropped)))
    expected = [row for entry in entries(kept) for row in undisturbed.add(entry)]
    found = [row for entry in entries(kept) for row in disturbed.add(entry)]
    assert [row._replace(number=0) for row in found] == [row._replace(number=0) for row in expected]
