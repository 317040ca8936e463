"""Cell and record: occurrences of a step, and which cells share a record."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.aggregation.scenario import Scenario
from tracker_daemon.aggregation.root.snapshot import dump, load
from tracker_daemon.aggregation.shared.occurrence import OccurrenceCounter
from tracker_protocol import limits

COLUMN = np.array([0])


def occurrences(steps: list[int]) -> list[int]:
    """What a counter assigns to one rank's steps of one metric, logged one by one."""
    counter, found = OccurrenceCounter(1, 1), []
    for step in steps:
        at = np.array([step])
        if counter.advance(0, COLUMN, at):
            found.append(0)
        else:
            [(_, assigned)] = counter.assign(0, COLUMN, at)
            found.extend(assigned.tolist())
    return found


def test_rising_steps_are_the_first_occurrence() -> None:
    assert occurrences([-3, 0, 1, 7, 1000]) == [0, 0, 0, 0, 0]


def test_the_same_step_again_is_the_next_occurrence() -> None:
    assert occurrences([5, 5, 5, 6]) == [0, 1, 2, 0]


def test_a_rewind_is_the_next_occurrence_until_it_has_caught_up() -> None:
    assert occurrences([0, 1, 2, 3, 1, 2, 3, 4]) == [0, 0, 0, 0, 1, 1, 1, 0]


def test_a_second_rewind_is_the_third_occurrence() -> None:
    assert occurrences([0, 1, 2, 1, 2, 1, 2, 3]) == [0, 0, 0, 1, 1, 2, 2, 0]


@given(st.lists(st.integers(0, 12), max_size=60))
def test_no_rank_ever_reports_a_cell_twice(steps: list[int]) -> None:
    cells = list(zip(steps, occurrences(steps), strict=True))
    assert len(set(cells)) == len(cells)


@given(st.lists(st.integers(0, 12), max_size=60))
def test_an_occurrence_is_the_number_of_levels_at_or_above_the_step(steps: list[int]) -> None:
    highs: list[int] = []
    expected = []
    for step in steps:
        occurrence = sum(high >= step for high in highs)
        highs[occurrence : occurrence + 1] = [step]
        expected.append(occurrence)
    assert occurrences(steps) == expected


@given(st.lists(st.integers(0, 12), max_size=40), st.data())
def test_occurrences_do_not_depend_on_how_rows_are_batched(steps: list[int], data: st.DataObject) -> None:
    counter, found, rest = OccurrenceCounter(1, 1), [], steps
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        block, rest = np.array(rest[:size]), rest[size:]
        if counter.advance(0, COLUMN, block):
            found += [0] * size
        else:
            [(_, assigned)] = counter.assign(0, COLUMN, block)
            found += assigned.tolist()
    assert found == occurrences(steps)


def test_ranks_that_reload_a_checkpoint_meet_in_the_same_occurrence() -> None:
    run = Scenario(2)
    for rank in (0, 1):
        run.log_rows(rank, [0, 1, 2], {"loss": [rank, rank, rank]})
        run.log_rows(rank, [1, 2, 3], {"loss": [rank + 10, rank + 10, rank + 10]})
    run.tick()
    assert [(r.step, r.occurrence) for r in run.records] == [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (3, 0)]
    assert run.row(2, 0)["loss/mean"] == 0.5
    assert run.row(2, 1)["loss/mean"] == 10.5


def test_a_thousand_values_at_one_step_are_all_aggregated() -> None:
    run = Scenario(2)
    for rank in (0, 1):
        run.log_rows(rank, [7] * 1000, {"loss": list(range(rank, 1000 + rank))})
    run.tick()
    assert [(r["loss"], r["loss/mean"]) for r in run.records] == [(i, i + 0.5) for i in range(1000)]
    assert run.notices == []


def test_repeats_of_a_step_need_constant_memory() -> None:
    counter = OccurrenceCounter(1, 1)
    for _ in range(1000):
        assert not counter.advance(0, COLUMN, np.array([7])) or not counter.repeats
        list(counter.assign(0, COLUMN, np.array([7])))
    assert counter.repeats == {0: [((7, 1000),)]}


def test_beyond_the_bound_of_repeats_own_values_are_recorded_counted_as_late_and_told() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "OCCURRENCES_PER_STEP_MAX", 4)
        run = Scenario(2)
        for rank in (0, 1):
            run.log_rows(rank, [7] * 6, {"loss": [rank] * 6})
        run.tick()
    assert [r.cells.keys() >= {"loss", "loss/mean"} for r in run.records] == [True] * 4 + [False] * 2
    assert [r["loss"] for r in run.records] == [0] * 6
    assert run.fold.books.late_by_rank == {0: 2, 1: 2}
    assert [n for n in run.notices if "rank 1 logged 'loss' at step 7 more than 4 times" in n]


def test_a_thousand_descending_steps_are_all_recorded_the_first_levels_with_aggregates() -> None:
    run = Scenario(2)
    for rank in (0, 1):
        run.log_rows(rank, range(1000, 0, -1), {"sigma": [float(rank)] * 1000})
    run.tick()
    assert run.steps() == list(range(1000, 0, -1))
    assert sum("sigma" in r.cells for r in run.records) == 1000
    assert sum("sigma/mean" in r.cells for r in run.records) == limits.OCCURRENCE_RUNS_MAX + 1
    assert run.fold.books.late == 2 * (1000 - limits.OCCURRENCE_RUNS_MAX - 1)


def noise_levels(run: Scenario, *ranks: int) -> None:
    """Each of the ranks logs a metric of its own at descending steps, before its reporters are learned."""
    for rank in ranks:
        run.log_rows(rank, range(1000, 0, -1), {f"sigma{rank}": list(range(1000))})


def test_what_a_sole_reporter_logs_beyond_the_bounds_before_it_is_learned_is_recorded() -> None:
    run = Scenario(3)
    noise_levels(run, 1, 2)
    run.tick()
    assert run.records == []
    for rank in range(3):
        run.log(rank, step=2000, loss=1.0)
    run.tick()
    for rank in (1, 2):
        assert [r[f"sigma{rank}"] for r in run.records if f"sigma{rank}" in r.cells] == list(range(1000))
        assert run.fold.books.late_by_rank[rank] == 1000 - limits.OCCURRENCE_RUNS_MAX - 1
        assert len([n for n in run.notices if f"rank {rank} logged 'sigma{rank}' at step" in n]) == 1
    assert run.fold.attempt.unplaced == {}


def test_what_a_rank_logs_beyond_the_bounds_is_not_recorded_if_another_rank_reports_the_metric_too() -> None:
    run = Scenario(3)
    run.log_rows(1, range(1000, 0, -1), {"sigma": list(range(1000))})
    run.log(2, step=1000, sigma=0.5)
    for rank in range(3):
        run.log(rank, step=2000, loss=1.0)
    run.tick()
    assert not any("sigma" in r.cells for r in run.records)
    assert run.fold.attempt.unplaced == {}


def test_kept_values_beyond_the_bounds_are_in_the_snapshot_and_have_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "UNPLACED_VALUES_KEPT_MAX", 500)
    run = Scenario(3)
    noise_levels(run, 1, 2)
    run.tick()
    kept = run.fold.attempt.unplaced
    assert sum(map(len, kept.values())) == 500
    assert load(dump(run.fold), run.rules).attempt.unplaced == kept


def test_a_single_process_loses_nothing_and_is_told_nothing_when_its_steps_descend() -> None:
    run = Scenario(1)
    run.log_rows(0, range(1000, 0, -1), {"sigma": list(range(1000))})
    run.tick()
    assert [r["sigma"] for r in run.records] == list(range(1000))
    assert run.notices == []
    assert run.fold.books.late == 0


def test_texts_at_one_step_are_all_recorded_in_order() -> None:
    run = Scenario(1)
    for value in range(100):
        run.say(0, 7, note=str(value))
    run.tick()
    assert [r["note"] for r in run.records] == [str(v) for v in range(100)]


def test_each_metric_counts_its_own_occurrences() -> None:
    run = Scenario(1)
    run.log(0, 3, loss=1)
    run.log(0, 3, lr=0.1)
    run.log(0, 3, loss=2)
    run.tick()
    assert run.row(3, 0) == {"loss": 1, "lr": 0.1}
    assert run.row(3, 1) == {"loss": 2}


def test_metrics_of_one_step_that_close_together_make_one_record() -> None:
    run = Scenario(2)
    run.log(0, 0, loss=1)
    run.log(0, 0, accuracy=0.5)
    run.log(1, 0, accuracy=0.7)
    run.log(1, 0, loss=3)
    run.tick()
    assert len(run.records) == 1
    assert {"loss", "loss/mean", "accuracy", "accuracy/mean"} <= run.row(0).keys()


def test_a_record_waits_until_all_open_cells_of_its_step_have_closed() -> None:
    run = Scenario(2)
    run.log(0, 0, loss=1)
    run.log(1, 0, loss=3)
    run.log(0, 0, accuracy=0.5)
    assert run.tick() == []
    run.log(1, 0, accuracy=0.5)
    assert len(run.tick()) == 1


def test_a_metric_that_comes_after_its_steps_record_makes_a_further_record() -> None:
    run = Scenario(2)
    for rank in (0, 1):
        run.log(rank, 0, loss=rank)
    run.tick()
    for rank in (0, 1):
        run.log(rank, 0, val=rank)
    run.tick()
    assert [set(record.cells) for record in run.rows(0)] == [
        {"loss", "loss/mean", "loss/min", "loss/max", "loss/std"},
        {"val", "val/mean", "val/min", "val/max", "val/std"},
    ]


def test_metrics_on_other_step_axes_need_nothing_special() -> None:
    run = Scenario(2)
    for rank in (0, 1):
        run.log_rows(rank, range(100, 110), {"loss": [0.0] * 10})
    run.tick()
    run.log(0, 1, {"eval/accuracy": 0.9})
    run.finish(0, 1)
    run.tick()
    assert run.row(1) == {"eval/accuracy": 0.9}
    assert run.steps() == [*range(100, 110), 1]


def test_rows_of_each_rank_come_in_the_order_logged_and_cells_without_a_home_by_step() -> None:
    run = Scenario(4)
    run.log_rows(0, [3, 1, 2], {"loss": [3, 1, 2]})
    for step in (9, 8, 7):
        run.log(1, step, other=step)
    for rank in (2, 3):
        run.log_rows(rank, [6, 4], {"shared": [rank, rank]})
    run.finish(*range(4))
    run.tick()
    assert run.steps() == [3, 1, 2, 9, 8, 7, 4, 6]


def test_a_record_has_the_primary_ranks_time() -> None:
    run = Scenario(2, primary=1)
    run.log_rows(0, [0], {"loss": [1]}, times=[111])
    run.log_rows(1, [0], {"loss": [1]}, times=[222])
    run.tick()
    assert run.records[0].time_ns == 222


@pytest.mark.parametrize("step", [-limits.STEP_MAX, 0, limits.STEP_MAX])
def test_steps_at_the_bounds_are_recorded(step: int) -> None:
    run = Scenario(1)
    run.log(0, step, loss=1)
    run.log(0, step, loss=2)
    run.tick()
    assert [(r.step, r.occurrence) for r in run.records] == [(step, 0), (step, 1)]
