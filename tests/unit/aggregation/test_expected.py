"""Who is expected: which ranks a metric's first cell waits for, and whom the later ones wait for."""

from __future__ import annotations

import pytest

from tests.support.aggregation.scenario import Scenario, learned

# ---- the first cell ------------------------------------------------------------------------------


def test_a_first_cell_closes_once_every_expected_rank_has_reported_it() -> None:
    run = Scenario(3)
    run.log(0, 0, loss=0)
    run.log(2, 0, loss=2)
    assert run.tick() == []
    run.log(1, 0, loss=1)
    run.tick()
    assert run.row(0) == {
        "loss": 0,
        "loss/mean": 1,
        "loss/min": 0,
        "loss/max": 2,
        "loss/std": pytest.approx((2 / 3) ** 0.5),
    }


def test_rank_0_logs_300_steps_before_the_others_come_and_nothing_closes_early() -> None:
    run = Scenario(4, connected=[0])
    run.log_rows(0, range(300), {"loss": [0.0] * 300, "lr": [0.1] * 300})
    run.tick()
    for _ in range(4):
        run.flush(0)
        run.wait(1)
    assert run.records == []
    for rank in (1, 2, 3):
        run.join(rank)
        run.log_rows(rank, range(300), {"loss": [rank] * 300, "lr": [0.1] * 300})
        run.tick()
    assert run.steps() == list(range(300))
    assert all(record["loss/mean"] == 1.5 and "loss/count" not in record.cells for record in run.records)
    assert run.fold.books.late == 0


def test_learn_wait_alone_does_not_close_a_first_cell() -> None:
    run = Scenario(2)
    run.log(0, 0, loss=0)
    run.tick()
    assert run.wait(6) == []


def test_a_flush_before_the_end_of_learn_wait_does_not_close_a_first_cell() -> None:
    run = Scenario(2)
    run.log(0, 0, loss=0)
    run.tick()
    run.flush(0, 1)
    run.wait(4.9)
    assert run.wait(1) == []


def test_learn_wait_and_a_flush_of_each_expected_rank_close_a_first_cell() -> None:
    run = Scenario(3)
    run.log(0, 0, loss=0)
    run.tick()
    run.wait(5)
    run.flush(0, 1)
    assert run.tick() == []
    run.flush(2)
    run.tick()
    assert run.row(0) == {"loss": 0}


def test_ranks_that_are_gone_need_not_flush() -> None:
    run = Scenario(3)
    run.log(0, 0, loss=0)
    run.lose(2)
    run.wait(5)
    run.flush(0, 1)
    run.tick()
    assert run.row(0) == {"loss": 0}


@pytest.mark.parametrize("how", ["finished", "lost", "absent"])
def test_a_first_cell_stops_waiting_for_a_rank_that_is_gone(how: str) -> None:
    run = Scenario(3, connected=[0, 1])
    run.log(0, 0, loss=0)
    run.log(1, 0, loss=2)
    assert run.tick() == []
    run.lose(2, how)
    run.tick()
    assert run.row(0)["loss/mean"] == 1


def test_a_rank_that_reported_a_first_cell_and_then_finished_is_in_it() -> None:
    run = Scenario(2)
    run.log(1, 0, loss=4)
    run.finish(1)
    run.log(0, 0, loss=2)
    run.tick()
    assert run.row(0)["loss/mean"] == 3


def test_a_first_cell_closes_at_the_latest_after_partial_after() -> None:
    run = Scenario(3, connected=[0, 1])
    run.log(0, 0, loss=0)
    run.log(1, 0, loss=2)
    run.tick()
    assert [record.cells for record in run.wait(29.9)] == [{"loss": 0}]  # early, without the aggregates
    [record] = run.wait(0.1)
    assert record["loss/mean"] == 1
    assert "loss" not in record.cells


def test_later_cells_wait_only_for_those_who_reported_the_first() -> None:
    run = learned(Scenario(3), [0, 2])
    run.log(0, 1, loss=0)
    assert run.tick() == []
    run.log(2, 1, loss=2)
    run.tick()
    assert run.row(1)["loss/mean"] == 1


def test_cells_after_the_first_close_together_with_it() -> None:
    run = Scenario(2)
    run.log_rows(0, range(5), {"loss": [0] * 5})
    run.log_rows(1, range(5), {"loss": [2] * 5})
    run.tick()
    assert run.steps() == [0, 1, 2, 3, 4]


def test_a_rank_that_had_begun_with_a_later_cell_when_the_first_closed_is_waited_for_from_that_cell() -> None:
    run = Scenario(3)
    run.log_rows(0, [0, 1], {"loss": [0, 0]})
    run.log_rows(1, [0, 1], {"loss": [0, 0]})
    run.log(2, 1, loss=3)
    run.tick()
    run.wait(5)
    run.flush(0, 1, 2)
    run.tick()
    assert run.row(0)["loss/count"] == 2
    assert run.row(1)["loss/mean"] == 1
    run.log(0, 2, loss=0)
    run.log(1, 2, loss=0)
    assert run.tick() == []
    run.log(2, 2, loss=3)
    run.tick()
    assert run.row(2)["loss/mean"] == 1


# ---- reporters known beforehand ------------------------------------------------------------------


def test_a_metric_set_to_the_primary_closes_without_waiting() -> None:
    run = Scenario(8, connected=[0], reporters="lr=primary,eval/*=primary")
    run.log(0, 0, {"lr": 0.1, "eval/loss": 2})
    run.tick()
    assert run.row(0) == {"lr": 0.1, "eval/loss": 2}


def test_a_metric_set_to_another_primary_waits_for_that_rank() -> None:
    run = Scenario(3, primary=2, reporters="lr=primary")
    run.log(0, 0, lr=1)
    assert run.tick() == []
    run.log(2, 0, lr=3)
    run.tick()
    assert run.row(0)["lr"] == 3


def test_a_metric_set_to_all_waits_for_all_whatever_was_flushed() -> None:
    run = Scenario(2, reporters="loss=all")
    run.log(0, 0, loss=0)
    run.tick()
    run.wait(6)
    run.flush(0, 1)
    assert run.tick() == []
    run.log(1, 0, loss=2)
    run.tick()
    assert run.row(0)["loss/mean"] == 1


# ---- the world's size ----------------------------------------------------------------------------


def test_with_unknown_world_size_the_ranks_seen_are_expected() -> None:
    run = Scenario(0, connected=[0, 3])
    run.log(0, 0, loss=0)
    assert run.tick() == []
    run.log(3, 0, loss=2)
    run.tick()
    assert run.row(0)["loss/mean"] == 1


def test_with_unknown_world_size_a_primary_that_was_not_seen_is_not_waited_for() -> None:
    run = Scenario(0, connected=[1], reporters="lr=primary")
    run.log(1, 0, lr=3)
    run.tick()
    assert run.row(0)["lr/mean"] == 3


def test_the_largest_world_size_that_a_rank_states_holds() -> None:
    run = Scenario(0, connected=[0])
    run.join(1, world_size=3)
    run.log(0, 0, loss=0)
    run.log(1, 0, loss=0)
    assert run.tick() == []
    run.join(2)
    run.log(2, 0, loss=3)
    run.tick()
    assert run.row(0)["loss/mean"] == 1
