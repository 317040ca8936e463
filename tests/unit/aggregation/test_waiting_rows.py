"""The rows of a rank that are not emitted, and the ranks for which they wait."""

from __future__ import annotations

from tests.support.aggregation.scenario import Scenario, learned
from tracker_daemon.aggregation.shared.fold import WaitingRows


def test_a_row_waits_for_the_ranks_that_have_not_reported_it() -> None:
    run = learned(Scenario(4), [0, 1, 2, 3])
    run.tick()
    for step in (1, 2):
        run.log(0, step, loss=1.0)
    run.log(2, 1, loss=1.0)
    run.tick()
    assert run.fold.waiting_rows(0) == WaitingRows((1, 2), (1, 2, 3))
    assert run.fold.waiting_rows(2) == WaitingRows((1,), (1, 3))
    assert run.fold.waiting_rows(1) == WaitingRows()
    for rank in (1, 2, 3):
        for step in (1, 2):
            if (rank, step) != (2, 1):
                run.log(rank, step, loss=1.0)
    run.tick()
    assert run.fold.waiting_rows(0) == WaitingRows()


def test_nothing_waits_for_a_rank_that_has_ended() -> None:
    run = learned(Scenario(2), [0, 1])
    run.tick()
    run.log(0, 1, loss=1.0)
    run.finish(1)
    run.tick()
    assert run.fold.waiting_rows(0) == WaitingRows()


def test_rows_of_another_rank_do_not_count() -> None:
    run = learned(Scenario(2), [0, 1])
    run.tick()
    run.log(1, 5, loss=1.0)
    run.tick()
    assert run.fold.waiting_rows(0) == WaitingRows()
