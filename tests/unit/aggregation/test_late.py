"""Late: what comes after its cell has closed, and ranks that lag."""

from __future__ import annotations

from tests.support.aggregation.scenario import Scenario


def started(world_size: int = 2, **settings: object) -> Scenario:
    """All ranks have reported ``loss`` at step 0."""
    run = Scenario(world_size, **settings)
    for rank in range(world_size):
        run.log(rank, 0, loss=rank)
    run.tick()
    return run


def miss(run: Scenario, rank: int, step: int) -> None:
    """All ranks but one report a step, which times out."""
    for other in range(run.world_size):
        if other != rank:
            run.log(other, step, loss=other)
    run.tick()
    run.wait(30)


def lagging(**settings: object) -> Scenario:
    """Rank 1 of 2 has missed steps 1 to 3."""
    run = started(**settings)
    for step in (1, 2, 3):
        miss(run, 1, step)
    assert run.fold.attempt.lagging == {1}
    return run


def test_late_contributions_stay_out_of_the_aggregates_and_are_counted_by_rank() -> None:
    run = started(3)
    miss(run, 2, 1)
    run.log(2, 1, loss=100)
    run.tick()
    assert run.row(1)["loss/mean"] == 0.5
    assert run.fold.books.late_by_rank == {2: 1}
    assert run.fold.books.late == 1


def test_late_contributions_are_reported_once_per_rank() -> None:
    run = started()
    for step in (1, 2):
        miss(run, 1, step)
        run.log(1, step, loss=100)
        run.tick()
    assert len([notice for notice in run.notices if notice.startswith("rank 1: values arrived after")]) == 1


def test_the_primarys_late_value_is_recorded_in_a_further_record() -> None:
    run = started()
    miss(run, 0, 1)
    run.log(0, 1, loss=7)
    run.tick()
    assert [record.cells.get("loss") for record in run.rows(1)] == [None, 7]
    assert run.fold.books.late == 1


def test_a_recorded_ranks_late_value_is_recorded_in_a_further_record() -> None:
    run = started(3, record="2")
    miss(run, 2, 1)
    run.log(2, 1, loss=7)
    run.tick()
    assert [set(record.cells) for record in run.rows(1)][1:] == [{"loss/rank2"}]


def test_a_late_own_value_is_recorded_in_its_row_and_never_beside_the_aggregates_that_missed_it() -> None:
    run = started()
    run.log(1, 1, loss=3)
    run.tick()
    run.wait(30)
    run.log(0, 1, loss=7, other=2)
    run.tick()
    run.log(1, 1, other=1)
    run.tick()
    assert [set(record.cells) & {"loss", "loss/mean", "other"} for record in run.rows(1)] == [
        {"loss/mean"},
        {"loss", "other"},
    ]
    assert run.row(1)["loss"] == 7
    assert run.row(1)["loss/mean"] == 3


def test_a_late_row_with_metrics_that_are_not_late_is_split() -> None:
    run = started()
    for rank in (0, 1):
        run.log(rank, 0, other=rank)
    run.tick()
    run.log(0, 1, loss=1)
    run.wait(30)
    run.log(1, 1, loss=100, other=3)
    run.log(0, 1, other=1)
    run.tick()
    assert run.row(1)["loss/mean"] == 1
    assert run.row(1)["other/mean"] == 2
    assert run.fold.books.late == 1


def test_a_rank_that_misses_n_cells_in_a_row_is_lagging_with_an_event() -> None:
    run = started(lagging_after=3)
    for step in (1, 2):
        miss(run, 1, step)
        assert not run.fold.attempt.lagging
    miss(run, 1, 3)
    assert run.fold.attempt.lagging == {1}
    assert [notice for notice in run.notices if "lagging" in notice and "rank 1" in notice]


def test_a_lagging_rank_is_no_longer_waited_for() -> None:
    run = lagging()
    run.log(0, 4, loss=5)
    run.tick()
    assert run.row(4)["loss/mean"] == 5
    assert run.row(4)["loss/count"] == 1


def test_a_lagging_rank_is_not_waited_for_in_new_metrics_either() -> None:
    run = lagging()
    run.log(0, 4, fresh=5)
    run.tick()
    assert run.row(4) == {"fresh": 5}


def test_cells_in_a_row_are_counted_anew_after_one_in_time() -> None:
    run = started()
    for step in (1, 2):
        miss(run, 1, step)
    for rank in (0, 1):
        run.log(rank, 3, loss=rank)
    run.tick()
    for step in (4, 5):
        miss(run, 1, step)
    assert not run.fold.attempt.lagging


def test_one_silence_over_many_cells_makes_a_rank_lagging_at_once() -> None:
    run = started()
    run.log_rows(0, range(1, 51), {"loss": [0] * 50})
    run.wait(30)
    assert run.fold.attempt.lagging == {1}
    assert len(run.records) == 51


def test_a_lagging_rank_is_included_when_in_time() -> None:
    run = started(3)
    for step in (1, 2, 3):
        miss(run, 2, step)
    run.log(2, 4, loss=5)
    run.log(0, 4, loss=0)
    run.tick()
    run.log(1, 4, loss=1)
    run.tick()
    assert run.row(4)["loss/mean"] == 2
    assert "loss/count" not in run.row(4)


def test_a_lagging_rank_that_reaches_the_newest_steps_is_waited_for_again_with_an_event() -> None:
    run = lagging()
    run.log(0, 4, loss=0)
    run.tick()
    run.log(1, 4, loss=1)  # late by a moment, but at the newest step
    run.tick()
    assert not run.fold.attempt.lagging
    assert [notice for notice in run.notices if "rank 1 has caught up" in notice]
    run.log(0, 5, loss=0)
    assert run.tick() == []
    run.log(1, 5, loss=1)
    run.tick()
    assert run.row(5)["loss/mean"] == 0.5


def test_a_lagging_ranks_old_steps_are_no_catching_up() -> None:
    run = lagging()
    run.log_rows(0, range(4, 20), {"loss": [0] * 16})
    run.tick()
    for step in range(1, 16):
        run.log(1, step, loss=1)
        run.tick()
        assert run.fold.attempt.lagging == {1}
    run.log(1, 16, loss=1)
    run.tick()
    assert not run.fold.attempt.lagging


def test_a_lagging_ranks_own_new_metrics_at_old_steps_are_no_catching_up() -> None:
    run = lagging()
    run.log_rows(0, range(4, 20), {"loss": [0] * 16})
    run.tick()
    run.log(1, 2, alone=1)
    run.wait(30)
    run.log(1, 3, alone=1)
    run.tick()
    assert run.fold.attempt.lagging == {1}


def test_once_caught_up_a_rank_must_miss_n_cells_again_to_lag() -> None:
    run = lagging()
    run.log(0, 4, loss=0)
    run.tick()
    run.log(1, 4, loss=1)
    run.tick()
    miss(run, 1, 5)
    assert not run.fold.attempt.lagging


def test_when_all_who_were_ahead_are_gone_a_lagging_rank_catches_up_by_itself() -> None:
    run = lagging()
    run.lose(0)
    run.tick()
    run.log_rows(1, [10, 11], {"loss": [1, 1]})
    run.tick()
    assert not run.fold.attempt.lagging


def test_a_metric_that_a_lagging_rank_reports_for_the_first_time_has_several_reporters() -> None:
    run = started(3)
    run.log(0, 0, solo=1)
    run.wait(5)
    run.flush(0, 1, 2)
    run.tick()
    for step in (1, 2, 3):
        miss(run, 2, step)
    assert run.fold.attempt.lagging == {2}
    run.log(2, 4, solo=3)
    run.log(0, 4, solo=1)
    run.tick()
    assert run.row(4)["solo"] == 1
    assert run.row(4)["solo/mean"] == 2


def test_a_lagging_rank_that_finishes_holds_nothing_up() -> None:
    run = lagging()
    run.finish(1)
    run.log(0, 4, loss=0, fresh=1)
    run.tick()
    assert run.row(4)["fresh"] == 1
