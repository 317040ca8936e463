"""Steps and pending rows."""

from tracker_client.staging.attachment import AttachedRow
from tracker_client.staging.buffer import StepShift
from tracker_client.staging.rows import RowAssembler
from tracker_protocol import limits


def assemble(calls, next_step=0):
    """(step, values, automatic) of the rows that ``calls`` make, the end included."""
    assembler = RowAssembler(next_step)
    rows = []
    for number, (step, values, *commit) in enumerate(calls):
        rows += assembler.add((step, number, values, *(commit or [True])))
    rows += assembler.close()
    return [(row.step, row.values, row.automatic) for row in rows]


def test_automatic_steps_count_from_where_the_daemon_says():
    assert assemble([(None, {"a": 1}), (None, {"a": 2})], next_step=7) == [
        (7, {"a": 1}, True),
        (8, {"a": 2}, True),
    ]


def test_an_explicit_step_sets_the_count():
    assert [row[0] for row in assemble([(None, {}), (10, {}), (None, {}), (3, {}), (None, {})])] == [
        0,
        10,
        11,
        3,
        4,
    ]


def test_uncommitted_calls_merge_into_the_row_that_commits():
    calls = [(5, {"a": 1, "b": 1}, False), (5, {"b": 2}, False), (None, {"c": 3}), (None, {"d": 4})]
    assert assemble(calls) == [(5, {"a": 1, "b": 2, "c": 3}, False), (6, {"d": 4}, True)]


def test_uncommitted_automatic_steps_do_not_advance():
    calls = [(None, {"a": 1}, False), (None, {"b": 2}), (None, {"c": 3})]
    assert assemble(calls) == [(0, {"a": 1, "b": 2}, True), (1, {"c": 3}, True)]


def test_a_different_step_closes_the_pending_row():
    assert assemble([(1, {"a": 1}, False), (2, {"a": 2})]) == [(1, {"a": 1}, False), (2, {"a": 2}, False)]
    assert assemble([(1, {"a": 1}, False), (2, {"a": 2}, False)]) == [
        (1, {"a": 1}, False),
        (2, {"a": 2}, False),
    ]


def test_the_end_closes_the_pending_row():
    assert assemble([(4, {"a": 1}, False)]) == [(4, {"a": 1}, False)]


def test_a_merged_row_has_the_time_of_its_last_call():
    assembler = RowAssembler(0)
    assembler.add((1, 100, {"a": 1}, False))
    (row,) = assembler.add((1, 200, {"b": 1}, True))
    assert row.time_ns == 200


def test_merging_leaves_the_callers_rows_alone():
    assembler = RowAssembler(0)
    first = {"a": 1}
    assembler.add((1, 0, first, False))
    assembler.add((1, 0, {"b": 1}, True))
    assert first == {"a": 1}


def test_a_pending_row_does_not_grow_without_bound():
    assembler = RowAssembler(0)
    rows = []
    for number in range(limits.METRICS_PER_ROW_MAX + 2):
        if number % 4096 == 0:
            rows += assembler.add((1, 0, {f"{number}/{key}": 1 for key in range(4096)}, False))
    assert rows


def attached(values, **items):
    return AttachedRow(values, items)


def assemble_with_attachments(calls):
    """(step, values, own) of the rows that ``calls`` make, the end included."""
    assembler = RowAssembler(0)
    rows = []
    for number, (step, payload, *commit) in enumerate(calls):
        rows += assembler.add((step, number, payload, *(commit or [not isinstance(payload, AttachedRow)])))
    rows += assembler.end()
    return [(row.step, row.values, row.own) for row in rows]


def test_what_is_attached_has_the_step_of_the_row_that_the_next_committing_call_makes():
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
        (0, {"a": 1}, False),
        (70, {"a": 2}, False),
        (70, {"norm": 1}, True),
        (71, {"b": 1}, False),
        (72, {"b": 2, "a": 3}, False),
        (72, {"norm": 2}, True),
        (73, {"a": 4}, False),
    ]


def test_what_is_attached_twice_before_a_commit_is_there_once_as_it_was_last():
    calls = [(None, attached({"x": 1, "y": 1})), (None, attached({"x": 2})), (4, {"a": 0})]
    assert assemble_with_attachments(calls) == [(4, {"a": 0}, False), (4, {"x": 2, "y": 1}, True)]


def test_what_no_call_follows_has_the_step_of_the_pending_row_or_the_next():
    assert assemble_with_attachments([(9, {"a": 0}), (None, attached({"x": 1}))])[1:] == [
        (10, {"x": 1}, True)
    ]
    calls = [(9, {"a": 0}, False), (None, attached({"x": 1}))]
    assert assemble_with_attachments(calls) == [(9, {"a": 0}, False), (9, {"x": 1}, True)]


def test_what_is_attached_survives_the_loss_of_the_rows_before_it():
    assembler = RowAssembler(0)
    assembler.add((None, 0, attached({"x": 1}), False))
    assert assembler.skip(StepShift(None, 5)) == []
    assert [row.step for row in assembler.add((None, 1, {"a": 1}, True))] == [5, 5]
    assert not assembler.has_pending
