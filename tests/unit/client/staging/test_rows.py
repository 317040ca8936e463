"""Steps, pending rows, and the calls that make one row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_client.staging.attachment import AttachedRow
from tracker_client.staging.buffer import HeavyRow, StepShift
from tracker_client.staging.rows import RowAssembler
from tracker_client.values.histogram import Histogram
from tracker_client.values.refusals import Refusals
from tracker_protocol import limits

HISTOGRAM = Histogram([0.0, 1.0], [1.0])


def assembler_of(next_step=0):
    return RowAssembler(next_step, Refusals())


def rows_of(calls, next_step=0):
    """The rows that ``calls``, (step, values[, commit]), make, the end included."""
    assembler = assembler_of(next_step)
    rows = []
    for number, (step, values, *commit) in enumerate(calls):
        rows += assembler.add((step, number, values, *(commit or [True])))
    return rows + assembler.close()


def assemble(calls, next_step=0):
    """(step, values, automatic) of the rows that ``calls`` make."""
    return [(row.step, row.values, row.automatic) for row in rows_of(calls, next_step)]


# ---- commit --------------------------------------------------------------------------------------


def test_automatic_steps_count_from_where_the_daemon_says():
    assert assemble([(None, {"a": 1}), (None, {"a": 2})], next_step=7) == [
        (7, {"a": 1}, True),
        (8, {"a": 2}, True),
    ]


def test_an_explicit_step_sets_the_count():
    steps = [row[0] for row in assemble([(None, {}), (10, {}), (None, {}), (3, {}), (None, {})])]
    assert steps == [0, 10, 11, 3, 4]


def test_uncommitted_calls_merge_into_the_row_that_commits():
    calls = [(5, {"a": 1}, False), (5, {"b": 2}, False), (None, {"c": 3}), (None, {"d": 4})]
    assert assemble(calls) == [(5, {"a": 1, "b": 2, "c": 3}, False), (6, {"d": 4}, True)]


def test_a_name_that_the_pending_row_has_closes_it_and_begins_another_at_the_same_step():
    calls = [(5, {"a": 1, "b": 1}, False), (5, {"b": 2}, False), (None, {"b": 3}), (None, {"b": 4})]
    rows = rows_of(calls)
    assert [(row.step, row.values) for row in rows] == [
        (5, {"a": 1, "b": 1}),
        (5, {"b": 2}),
        (5, {"b": 3}),
        (6, {"b": 4}),
    ]
    assert [row.number for row in rows] == [0, 1, 2, 3]


def test_a_histogram_with_a_name_of_the_pending_row_closes_it_too():
    calls = [
        (5, {"h": 1}, False),
        (5, HeavyRow({}, 1, deferred=False, items={"h": HISTOGRAM}), False),
        (5, HeavyRow({"a": 1}, 1, deferred=False, items={"h": HISTOGRAM})),
    ]
    assert [(row.values, list(row.items)) for row in rows_of(calls)] == [
        ({"h": 1}, []),
        ({}, ["h"]),
        ({"a": 1}, ["h"]),
    ]


def test_uncommitted_automatic_steps_do_not_advance():
    calls = [(None, {"a": 1}, False), (None, {"b": 2}), (None, {"c": 3})]
    assert assemble(calls) == [(0, {"a": 1, "b": 2}, True), (1, {"c": 3}, True)]


def test_a_different_step_closes_the_pending_row():
    assert assemble([(1, {"a": 1}, False), (2, {"a": 2})]) == [(1, {"a": 1}, False), (2, {"a": 2}, False)]
    assert assemble([(1, {"a": 1}, False), (2, {"a": 2}, False)]) == [
        (1, {"a": 1}, False),
        (2, {"a": 2}, False),
    ]


def test_the_step_after_a_closed_row_follows_the_last_committed_one():
    calls = [(3, {"a": 1}), (10, {"b": 1}, False), (5, {"a": 2}), (None, {"a": 3})]
    assert [row.step for row in rows_of(calls)] == [3, 10, 5, 6]


def test_the_end_closes_the_pending_row():
    assert assemble([(4, {"a": 1}, False)]) == [(4, {"a": 1}, False)]


def test_a_merged_row_has_the_time_of_its_last_call():
    assembler = assembler_of()
    assembler.add((1, 100, {"a": 1}, False))
    (row,) = assembler.add((1, 200, {"b": 1}, True))
    assert row.time_ns == 200


def test_merging_leaves_the_callers_rows_alone():
    assembler = assembler_of()
    first, joined = {"a": 1}, {"c": 1}
    assembler.add((1, 0, first, False))
    assembler.add((1, 0, {"b": 1}, True))
    assembler.add((1, 0, joined, True))
    assembler.add((1, 0, {"d": 1}, True))
    assert (first, joined) == ({"a": 1}, {"c": 1})


def test_a_pending_row_does_not_grow_without_bound():
    assembler = assembler_of()
    rows = []
    for number in range(0, limits.METRICS_PER_ROW_MAX + 2, 4096):
        rows += assembler.add((1, 0, {f"{number}/{key}": 1 for key in range(4096)}, False))
    rows += assembler.add((1, 0, {"last": 1}, True))
    assert len(rows) == 2
    assert {row.number for row in rows} == {0}


# ---- steps ---------------------------------------------------------------------------------------


def test_a_key_that_is_a_whole_number_names_the_step_and_is_taken_out():
    calls = [(None, {"step": 100, "a": 1}), (None, {"a": 2}), (None, {"step": 7.0, "a": 3}), (None, {"a": 4})]
    assert assemble(calls) == [
        (100, {"a": 1}, False),
        (101, {"a": 2}, True),
        (7, {"a": 3}, False),
        (8, {"a": 4}, True),
    ]


def test_a_key_that_names_the_step_merges_as_the_argument_does():
    calls = [(None, {"step": 5, "a": 1}, False), (None, {"step": 5, "b": 2}, False), (5, {"step": 5, "c": 3})]
    assert assemble(calls) == [(5, {"a": 1, "b": 2, "c": 3}, False)]


@pytest.mark.parametrize("key", [True, 0.5, float("nan"), float("inf"), "7", limits.STEP_MAX + 1])
def test_a_key_that_names_no_step_is_kept_beside_the_automatic_one(key, caplog):
    (row,) = rows_of([(None, {"step": key, "a": 1})], next_step=3)
    assert (row.step, row.automatic, list(row.values)) == (3, True, ["step/local", "a"])
    assert "'step/local'" in caplog.text


def test_the_argument_wins_over_a_different_key_which_is_kept_with_one_warning(caplog):
    rows = rows_of([(9, {"step": 100, "a": 1}), (10, {"step": 101, "a": 2}), (11, {"a": 3, "step": 11})])
    assert [(row.step, row.values) for row in rows] == [
        (9, {"step/local": 100, "a": 1}),
        (10, {"step/local": 101, "a": 2}),
        (11, {"a": 3}),
    ]
    assert caplog.text.count("'step/local'") == 1


def test_a_key_that_cannot_be_renamed_stays_as_it_is():
    (row,) = rows_of([(9, {"step": 100, "step/local": 1})])
    assert row.values == {"step": 100, "step/local": 1}


@pytest.mark.parametrize("step", [limits.STEP_MAX + 1, -limits.STEP_MAX - 1, 10**30])
def test_values_at_a_step_that_is_too_large_go_to_the_automatic_step(step, caplog):
    rows = rows_of([(4, {"a": 1}), (step, {"a": 2}), (step, {"a": 3}, False), (None, {"a": 4})])
    assert [(row.step, row.values["a"]) for row in rows] == [(4, 1), (5, 2), (6, 3), (6, 4)]
    assert str(step)[:20] in caplog.text
    assert len(caplog.records) == 1


def test_a_key_whose_comparison_raises_loses_its_own_row_only():
    class Odd(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other):
            raise RuntimeError

    rows = rows_of([(1, {"a": 1}), (1, {Odd("a"): 2}), (1, {"b": 3})])
    assert [row.values for row in rows] == [{"a": 1}, {"b": 3}]


# ---- which calls make one row --------------------------------------------------------------------


def numbers(*calls):
    return [row.number for row in rows_of(calls)]


def test_a_call_joins_the_newest_row_if_that_has_its_step_and_none_of_its_names():
    assert numbers((1, {"a": 1}), (1, {"b": 1}), (1, {"c": 1}), (2, {"a": 1}), (1, {"d": 1})) == [
        0,
        0,
        0,
        1,
        2,
    ]


def test_a_name_that_the_newest_row_has_begins_the_next_row():
    assert numbers((1, {"a": 1}), (1, {"b": 1}), (1, {"a": 2, "c": 1}), (1, {"b": 2})) == [0, 0, 1, 1]


def test_rows_of_one_step_that_repeat_a_key_are_as_many_as_the_repeats():
    calls = [(3, {"return": value}) for value in range(1_000)]
    assert numbers(*calls) == list(range(1_000))


def test_an_automatic_step_never_joins_an_earlier_row():
    assert numbers((None, {"a": 1}), (None, {"b": 1})) == [0, 1]


def test_a_closed_row_joins_too():
    assert numbers((1, {"a": 1}), (1, {"b": 1}, False), (1, {"b": 2}, False), (2, {"a": 1})) == [0, 0, 1, 2]


def test_no_call_joins_a_row_across_dropped_ones():
    assembler = assembler_of()
    (first,) = assembler.add((1, 0, {"a": 1}, True))
    assert assembler.skip(StepShift(1, 0)) == []
    (second,) = assembler.add((1, 0, {"b": 1}, True))
    assert (first.number, second.number) == (0, 1)


def test_the_newest_row_is_the_pending_one_or_the_one_that_it_will_join():
    assembler = assembler_of()
    newest = [assembler.newest]
    for call in [
        (1, 0, {"a": 1}, False),  # will begin row 0
        (1, 0, {"b": 1}, True),  # has begun it
        (1, 0, {"c": 1}, False),  # will join it
        (1, 0, {"a": 1}, False),  # has joined it; the next one will begin row 1
        (2, 0, {"a": 1}, True),
    ]:
        assembler.add(call)
        newest.append(assembler.newest)
    assert newest == [None, 0, 0, 0, 1, 2]


NAMES = st.sampled_from("abcd")
CALLS = st.lists(
    st.tuples(st.none() | st.integers(0, 3), st.dictionaries(NAMES, st.integers(), min_size=1), st.booleans())
)


@given(CALLS)
def test_every_value_is_in_one_row_in_the_order_logged_and_no_row_has_a_name_twice(calls):
    rows = rows_of(calls)
    logged = [(name, value) for _, values, _ in calls for name, value in values.items()]
    assert [(name, value) for row in rows for name, value in row.values.items()] == logged
    numbers = [row.number for row in rows]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(len(set(numbers))))
    for number in set(numbers):
        parts = [row for row in rows if row.number == number]
        names = [name for part in parts for name in part.values]
        assert len(names) == len(set(names))
        assert len({part.step for part in parts}) == 1


# ---- attached values -----------------------------------------------------------------------------


def attached(values, **items):
    return AttachedRow(values, items)


def assemble_with_attachments(calls):
    """(step, values, own, number) of the rows that ``calls`` make, the end included."""
    assembler = assembler_of()
    rows = []
    for number, (step, payload, *commit) in enumerate(calls):
        rows += assembler.add((step, number, payload, *(commit or [not isinstance(payload, AttachedRow)])))
    rows += assembler.end()
    return [(row.step, row.values, row.own, row.number) for row in rows]


def test_what_is_attached_joins_the_row_of_the_next_committing_call():
    calls = [
        (None, {"a": 1}),
        (None, attached({"norm": 1})),
        (70, {"a": 2}),
        (71, {"b": 1}, False),
        (None, attached({"norm": 2})),
        (72, {"b": 2}, False),
        (72, {"a": 3}),
        (None, {"a": 4}),
    ]
    assert assemble_with_attachments(calls) == [
        (0, {"a": 1}, False, 0),
        (70, {"a": 2}, False, 1),
        (70, {"norm": 1}, True, 1),
        (71, {"b": 1}, False, 2),
        (72, {"b": 2, "a": 3}, False, 3),
        (72, {"norm": 2}, True, 3),
        (73, {"a": 4}, False, 4),
    ]


def test_calls_go_on_joining_the_row_that_attached_values_have_joined():
    calls = [(5, {"a": 1}), (None, attached({"norm": 1})), (5, {"b": 1}), (5, {"c": 1})]
    assert assemble_with_attachments(calls) == [
        (5, {"a": 1}, False, 0),
        (5, {"b": 1}, False, 0),
        (5, {"norm": 1}, True, 0),
        (5, {"c": 1}, False, 0),
    ]


def test_what_is_attached_has_a_row_of_its_own_if_the_call_has_one_of_its_names():
    calls = [(None, attached({"norm": 1})), (5, {"norm": 2})]
    assert assemble_with_attachments(calls) == [(5, {"norm": 2}, False, 0), (5, {"norm": 1}, True, 1)]


def test_what_is_attached_twice_before_a_commit_is_there_once_as_it_was_last():
    calls = [(None, attached({"x": 1, "y": 1})), (None, attached({"x": 2})), (4, {"a": 0})]
    assert assemble_with_attachments(calls) == [(4, {"a": 0}, False, 0), (4, {"x": 2, "y": 1}, True, 0)]


def test_what_no_call_follows_joins_the_pending_row_or_is_at_the_next_step():
    assert assemble_with_attachments([(9, {"a": 0}), (None, attached({"x": 1}))])[1:] == [
        (10, {"x": 1}, True, 1)
    ]
    calls = [(9, {"a": 0}, False), (None, attached({"x": 1}))]
    assert assemble_with_attachments(calls) == [(9, {"a": 0}, False, 0), (9, {"x": 1}, True, 0)]


def test_what_is_attached_survives_the_loss_of_the_rows_before_it():
    assembler = assembler_of()
    assembler.add((None, 0, attached({"x": 1}), False))
    assert assembler.skip(StepShift(None, 5)) == []
    assert [row.step for row in assembler.add((None, 1, {"a": 1}, True))] == [5, 5]
    assert not assembler.has_pending
