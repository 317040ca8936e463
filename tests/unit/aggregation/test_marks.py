"""Closed marks: a cell is emitted once, for as long as anything is remembered of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.aggregation.scenario import Scenario
from tracker_daemon.aggregation.shared.marks import ClosedMarks
from tracker_protocol import limits


@pytest.fixture
def few_marks(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(limits, "CLOSED_MARKS_PER_PANEL", 4)
    return 4


def test_marks_tell_a_rows_metrics_apart() -> None:
    marks = ClosedMarks(10)
    closed = np.zeros((1, 10), bool)
    closed[0, [0, 9]] = True
    marks.add([(5, 0)], closed)
    found = marks.closed((5, 0))
    assert found is not None
    assert found.tolist() == closed[0].tolist()
    assert marks.closed((5, 1)) is None
    assert marks.closed((4, 0)) is None


def test_rows_that_close_other_metrics_each_are_told_apart_however_many(few_marks: int) -> None:
    marks = ClosedMarks(4)
    for number in range(16):
        closed = np.unpackbits(np.array([[number]], np.uint8), axis=1)[:, 4:].astype(bool)
        marks.add([(number, number)], closed)
        found = marks.closed((number, number))
        assert found is not None
        assert found.tolist() == closed[0].tolist()


def test_older_marks_become_a_watermark_per_occurrence(few_marks: int) -> None:
    marks = ClosedMarks(2)
    marks.add([(step, 0) for step in range(10)], np.ones((10, 2), bool))
    assert len(marks.bits) == few_marks
    assert marks.watermarks == {0: 5}
    assert [marks.any_at((step, 0)) for step in (-1, 5, 6, 9, 10)] == [True, True, True, True, False]
    assert not marks.any_at((3, 1))


def test_the_memory_of_marks_is_bounded_in_a_long_run(few_marks: int) -> None:
    run = Scenario(2)
    for start in range(0, 400, 20):
        for rank in (0, 1):
            run.log_rows(rank, range(start, start + 20), {"loss": [rank] * 20})
        run.tick()
    assert len(run.records) == 400
    assert len(run.fold.attempt.panels[0].marks.bits) == few_marks


@pytest.mark.parametrize("step", [1, 399])
def test_a_late_value_below_or_above_the_watermark_does_not_open_its_cell_again(
    few_marks: int, step: int
) -> None:
    run = Scenario(2)
    for rank in (0, 1):
        run.log(rank, 0, loss=1)
    run.tick()
    run.log_rows(0, range(1, 400), {"loss": [1] * 399})
    run.tick()
    run.wait(30)
    assert len(run.records) == 400
    run.log(1, step, loss=100)
    run.tick()
    assert len(run.rows(step)) == 1
    assert run.fold.books.late == 1


def test_cells_that_are_open_below_the_watermark_close_as_usual(few_marks: int) -> None:
    run = Scenario(2)
    for rank in (0, 1):
        run.log(rank, 0, loss=1)
    run.tick()
    run.log(0, 1, loss=1)
    run.log_rows(0, range(2, 30), {"loss": [1] * 28})
    run.tick()
    assert run.rows(1) == []
    run.log_rows(1, range(2, 30), {"loss": [3] * 28})
    run.tick()
    assert run.row(1)["loss/mean"] == 1
    assert run.row(2)["loss/mean"] == 2


def test_a_rewind_beyond_the_watermark_is_a_new_occurrence_and_recorded(few_marks: int) -> None:
    run = Scenario(2)
    for rank in (0, 1):
        run.log_rows(rank, range(50), {"loss": [1] * 50})
    run.tick()
    for rank in (0, 1):
        run.log_rows(rank, range(10, 60), {"loss": [2] * 50})
    run.tick()
    assert run.row(10, 1)["loss/mean"] == 2
    assert run.row(55, 0)["loss/mean"] == 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.lists(st.integers(0, 15), min_size=1, max_size=6),
            st.sampled_from([0, 1, 31]),
        ),
        max_size=30,
    )
)
def test_no_cell_is_emitted_twice_however_little_is_remembered(
    played: list[tuple[int, list[int], int]],
) -> None:
    """The scenario checks it, with the books, after every tick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "CLOSED_MARKS_PER_PANEL", 2)
        run = Scenario(2, record="1")
        for rank, steps, wait in played:
            run.log_rows(rank, steps, {"loss": [rank] * len(steps), "other": [1] * len(steps)})
            run.wait(wait)
        run.end()
        run.tick()
        assert run.fold.attempt.open_points() == 0
