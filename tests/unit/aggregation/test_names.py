"""Names: what is recorded for a metric, and under which name."""

from __future__ import annotations

import pytest

from tests.support.aggregation.scenario import Scenario
from tracker_daemon.rules.metric_names import aggregate_base, rank_base

STATISTICS = {"mean", "min", "max", "std"}


def all_log(run: Scenario, step: int, name: str = "loss", *, without: tuple[int, ...] = ()) -> None:
    """Every rank logs its number times ten."""
    for rank in range(run.world_size):
        if rank not in without:
            run.log(rank, step, {name: rank * 10.0})
    run.tick()


def sole(run: Scenario, rank: int, step: int = 0) -> None:
    """Only ``rank`` reports ``loss``."""
    run.log(rank, step, loss=rank * 10.0)
    run.wait(5)
    run.flush(*range(run.world_size))
    run.tick()


def test_plain_is_rank_0_and_aggregates_are_across_ranks() -> None:
    run = Scenario(3)
    all_log(run, 0)
    assert run.row(0) == {
        "loss": 0,
        "loss/mean": 10,
        "loss/min": 0,
        "loss/max": 20,
        "loss/std": pytest.approx((200 / 3) ** 0.5),
    }


def test_plain_is_another_primary_rank_if_told_so() -> None:
    run = Scenario(3, primary=2)
    all_log(run, 0)
    assert run.row(0)["loss"] == 20


def test_a_metric_that_only_one_rank_reports_stays_plain() -> None:
    run = Scenario(3)
    sole(run, 2)
    assert run.row(0) == {"loss": 20}


def test_a_sole_reporter_keeps_the_plain_name_when_others_join() -> None:
    run = Scenario(3)
    sole(run, 2)
    for rank in (1, 2):
        run.log(rank, 1, loss=rank * 10)
    run.tick()
    assert run.row(1)["loss"] == 20
    assert run.row(1)["loss/mean"] == 15


def test_the_primarys_values_are_kept_under_its_name_where_a_sole_reporter_has_the_plain_one() -> None:
    run = Scenario(3)
    sole(run, 2)
    run.log(0, 1, loss=7)
    run.log(2, 1, loss=9)
    run.tick()
    assert run.row(1)["loss"] == 9
    assert run.row(1)["loss/rank0"] == 7
    (notice,) = [one for one in run.notices if "alone logged 'loss' at first" in one]
    assert "the primary rank's are recorded as 'loss/rank0'" in notice


def test_a_single_rank_run_has_no_aggregates() -> None:
    run = Scenario(1)
    all_log(run, 0)
    assert run.row(0) == {"loss": 0}


def test_a_metric_with_several_reporters_has_aggregates_even_where_one_reported() -> None:
    run = Scenario(2)
    all_log(run, 0)
    run.log(0, 1, loss=3)
    run.finish(1)
    run.tick()
    assert run.row(1) == {
        "loss": 3,
        "loss/mean": 3,
        "loss/min": 3,
        "loss/max": 3,
        "loss/std": 0,
        "loss/count": 1,
    }


def test_without_the_primarys_value_a_record_has_the_aggregates_alone() -> None:
    run = Scenario(3)
    all_log(run, 0)
    all_log(run, 1, without=(0,))
    run.wait(30)
    assert run.row(1).keys() == {f"loss/{s}" for s in (*STATISTICS, "count")}


def test_the_count_is_recorded_only_where_it_differs_from_the_expected_number() -> None:
    run = Scenario(3)
    all_log(run, 0)
    all_log(run, 1, without=(2,))
    run.wait(30)
    all_log(run, 2)
    assert ["loss/count" in run.row(step) for step in range(3)] == [False, True, False]
    assert run.row(1)["loss/count"] == 2


@pytest.mark.parametrize("suffix", ["mean", "min", "max", "std", "count"])
def test_a_name_that_ends_in_an_aggregates_suffix_is_a_metric_as_any_other(suffix: str) -> None:
    run = Scenario(2)
    all_log(run, 0, f"grad/{suffix}")
    assert run.row(0)[f"grad/{suffix}"] == 0
    assert run.row(0)[f"grad/{suffix}/mean"] == 5
    assert run.notices == []


def test_a_scripts_metric_that_came_first_keeps_the_name_of_an_aggregate_with_one_warning() -> None:
    run = Scenario(2)
    all_log(run, 0, "loss/mean")
    for step in (1, 2):
        for rank in (0, 1):
            run.log(rank, step, {"loss": rank, "loss/mean": 7.0})
        run.tick()
    assert [run.row(step)["loss/mean"] for step in range(3)] == [0, 7, 7]
    assert run.row(2)["loss/max"] == 1
    assert len([notice for notice in run.notices if "'loss/mean' was logged" in notice]) == 1


def test_one_processs_own_mean_keeps_its_name() -> None:
    run = Scenario(1)
    run.log(0, 0, {"loss": 1.0, "loss/mean": 2.0})
    run.tick()
    assert run.row(0) == {"loss": 1, "loss/mean": 2}


def test_names_that_only_resemble_an_aggregates_are_aggregated() -> None:
    for name in ("mean", "/mean", "loss/meaning", "loss/mean/x"):
        assert aggregate_base(name) is None
        run = Scenario(2)
        all_log(run, 0, name)
        assert run.row(0)[f"{name}/mean"] == 5


def test_where_a_script_logs_what_the_daemon_computes_the_daemons_value_wins_with_one_warning() -> None:
    run = Scenario(2)
    for step in range(3):
        for rank in (0, 1):
            run.log(rank, step, {"loss": rank * 10.0, "loss/mean": 999.0})
        run.tick()
    assert [run.row(step)["loss/mean"] for step in range(3)] == [5, 5, 5]
    assert [run.row(step)["loss/mean/logged"] for step in range(3)] == [999, 999, 999]
    assert len([notice for notice in run.notices if "'loss/mean'" in notice]) == 1
    assert len([warning for warning in run.warnings if "'loss/mean'" in warning]) == 1


def test_a_scripts_own_aggregate_that_comes_late_does_not_stand_beside_the_daemons() -> None:
    run = Scenario(2)
    for rank in (0, 1):
        run.log(rank, 0, {"loss": rank, "loss/mean": 999.0})
    run.tick()
    run.log(1, 1, {"loss": 1, "loss/mean": 999.0})
    run.tick()
    run.wait(30)
    run.log(0, 1, {"loss": 0, "loss/mean": 999.0})
    run.tick()
    assert run.row(1)["loss/mean"] == 1
    assert run.row(1)["loss"] == 0


def test_a_scripts_own_aggregate_is_recorded_where_the_daemon_computes_none() -> None:
    run = Scenario(1)
    run.log(0, 0, {"loss": 1, "loss/mean": 7})
    run.tick()
    assert run.row(0) == {"loss": 1, "loss/mean": 7}
    assert not run.notices


# ---- ranks recorded beside the primary -----------------------------------------------------------


def test_recorded_ranks_have_columns_of_their_own() -> None:
    run = Scenario(4, record="0,2-3")
    all_log(run, 0)
    own = {name: value for name, value in run.row(0).items() if name == "loss" or "/rank" in name}
    assert own == {"loss": 0, "loss/rank2": 20, "loss/rank3": 30}


def test_all_ranks_can_be_recorded() -> None:
    run = Scenario(9, record="all")
    all_log(run, 0)
    assert [run.row(0)[f"loss/rank{rank}"] for rank in range(1, 9)] == [10 * rank for rank in range(1, 9)]
    assert "loss/rank0" not in run.row(0)


def test_a_sole_reporters_value_is_not_recorded_twice() -> None:
    run = Scenario(3, record="2")
    sole(run, 2)
    assert run.row(0) == {"loss": 20}


def test_a_recorded_ranks_own_value_of_an_aggregate_by_name_is_recorded() -> None:
    run = Scenario(2, record="1")
    all_log(run, 0, "grad/max")
    assert run.row(0).items() >= {"grad/max": 0, "grad/max/rank1": 10}.items()


def test_a_metric_named_like_a_recorded_ranks_column_does_not_clash_with_it() -> None:
    run = Scenario(2, record="1")
    for rank in (0, 1):
        run.log(rank, 0, {"loss": rank * 10.0, "loss/rank1": 999.0})
    run.tick()
    assert run.row(0)["loss/rank1"] == 10
    assert any("'loss/rank1'" in notice for notice in run.notices)


def test_a_metric_named_like_a_column_of_a_rank_that_is_not_recorded_is_an_ordinary_metric() -> None:
    run = Scenario(1)
    run.log(0, 0, {"loss": 1, "loss/rank1": 5})
    run.tick()
    assert run.row(0) == {"loss": 1, "loss/rank1": 5}
    assert not run.notices


@pytest.mark.parametrize(
    "name", ["loss", "loss/rank", "loss/rank01", "rank1", "/rank1", "loss/rank1x", "loss/rank²"]
)
def test_only_a_rank_columns_exact_name_is_taken_for_one(name: str) -> None:
    assert rank_base(name) is None


def test_layouts_may_differ_between_metrics_of_one_call() -> None:
    run = Scenario(2)
    run.log(0, 0, a=1, b=2, c=3)
    run.log(1, 0, b=4)
    run.wait(5)
    run.flush(0, 1)
    run.tick()
    assert run.row(0).keys() == {"a", "c", "b", *(f"b/{s}" for s in STATISTICS)}


def test_key_order_and_key_sets_of_ranks_may_differ() -> None:
    run = Scenario(2)
    run.log(0, 0, {"a": 1, "b": 2})
    run.log(1, 0, {"b": 4, "a": 3})
    run.tick()
    assert run.row(0)["a/mean"] == 2
    assert run.row(0)["b/mean"] == 3
