"""Who is waited for, and for how long: partial cells, joining and leaving, restarts, deadlines, bounds."""

from __future__ import annotations

import pytest

from tests.support.aggregation.scenario import Scenario, learned
from tracker_daemon.aggregation.shared import panel
from tracker_protocol import limits

STATISTICS = {"loss/mean", "loss/min", "loss/max", "loss/std"}

# ---- partial cells -------------------------------------------------------------------------------


def test_a_cell_closes_as_partial_after_partial_after_and_carries_its_count() -> None:
    run = learned(Scenario(3), [0, 1, 2])
    run.log(0, 1, loss=0)
    run.log(1, 1, loss=2)
    run.tick()
    assert run.wait(29.9) == []
    run.wait(0.1)
    assert run.row(1)["loss/mean"] == 1
    assert run.row(1)["loss/count"] == 2


def test_each_cell_has_its_own_deadline() -> None:
    run = learned(Scenario(2), [0, 1])
    run.log(0, 1, loss=0)
    run.wait(10)
    run.log(0, 2, loss=0)
    run.tick()
    run.wait(20)
    assert run.steps() == [0, 1]
    run.wait(9)
    assert run.steps() == [0, 1]
    run.wait(1)
    assert run.steps() == [0, 1, 2]


def test_a_departure_closes_the_cells_that_waited_for_that_rank() -> None:
    run = learned(Scenario(3), [0, 1, 2])
    run.log(0, 1, loss=0)
    run.log(1, 1, loss=2)
    assert run.tick() == []
    run.lose(2)
    run.tick()
    assert run.row(1)["loss/count"] == 2


def test_after_a_rank_has_gone_aggregates_go_on_with_their_count() -> None:
    run = learned(Scenario(3), [0, 1, 2])
    run.lose(2)
    run.log(0, 1, loss=0)
    run.log(1, 1, loss=2)
    run.tick()
    assert run.row(1)["loss/mean"] == 1
    assert run.row(1)["loss/count"] == 2


def test_a_lost_rank_that_connects_again_is_waited_for_from_its_next_cell() -> None:
    run = learned(Scenario(2), [0, 1])
    run.lose(1)
    run.tick()
    run.join(1)
    run.log(1, 1, loss=2)
    assert run.tick() == []
    run.log(0, 1, loss=0)
    run.tick()
    assert run.row(1)["loss/mean"] == 1
    run.log(0, 2, loss=0)
    assert run.tick() == []


# ---- joining and leaving -------------------------------------------------------------------------


def test_a_rank_that_reports_a_learned_metric_later_joins_from_that_cell() -> None:
    run = learned(Scenario(2), [0])
    run.log(1, 1, loss=2)
    assert run.tick() == []
    run.log(0, 1, loss=0)
    run.tick()
    assert run.row(1)["loss/mean"] == 1
    run.log(0, 2, loss=0)
    assert run.tick() == []


def test_a_rank_that_joins_in_the_midst_does_not_hold_up_the_cells_before() -> None:
    run = learned(Scenario(3), [0, 2])
    run.log_rows(0, [1, 2], {"loss": [0, 0]})
    run.log(1, 2, loss=5)
    run.log(2, 1, loss=2)
    run.tick()
    assert run.steps() == [0, 1]
    run.log(2, 2, loss=1)
    run.tick()
    assert run.row(2)["loss/mean"] == 2


def test_a_reporter_whose_stream_went_on_without_a_metric_leaves_and_is_not_lagging(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "PASSED_STEPS_MAX", 10)
    run = learned(Scenario(2), [0, 1])
    for step in range(1, 21):
        run.log(0, step, loss=step, other=1)
        run.log(1, step, other=1)
    run.tick()
    run.wait(30)
    assert run.steps() == list(range(21))
    assert not run.fold.attempt.lagging
    run.log(0, 21, loss=1, other=1)
    run.log(1, 21, other=1)
    run.tick()
    assert run.row(21)["loss/count"] == 1


def test_a_reporter_that_left_joins_again_when_it_reports_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PASSED_STEPS_MAX", 2)
    run = learned(Scenario(2), [0, 1])
    for step in (1, 2, 3):
        run.log(0, step, loss=1, other=1)
    for step in (1, 2, 3):
        run.log(1, step, other=1)
    run.tick()
    run.log(0, 4, loss=1, other=1)
    assert run.tick() == []  # it waits for ``other``
    run.log(1, 4, other=1)
    run.tick()
    assert run.row(4)["loss/count"] == 1
    run.log(1, 5, loss=3, other=1)
    assert run.tick() == []
    run.log(0, 5, loss=1, other=1)
    run.tick()
    assert run.row(5)["loss/mean"] == 2
    assert "loss/count" not in run.row(5)


def test_a_reporter_that_logs_a_metric_now_and_then_is_in_every_aggregate() -> None:
    run = learned(Scenario(2), [0, 1])
    for step in range(1, 101):
        run.log(0, step, loss=1, other=1)
        run.tick()
        run.log(1, step, other=1, **({"loss": 3} if step % 25 == 0 else {}))
        run.tick()
    assert run.fold.books.late == 0
    assert [run.row(step)["loss/mean"] for step in (25, 50, 75, 100)] == [2, 2, 2, 2]


def test_a_cell_waits_for_no_rank_that_has_logged_a_later_step() -> None:
    run = learned(Scenario(2), [0, 1])
    run.log(0, 1, loss=1)
    assert run.tick() == []
    run.log(1, 2, other=1)
    run.tick()
    assert run.row(1)["loss/count"] == 1


def test_a_cell_waits_for_a_rank_at_the_step_at_which_its_first_reporter_is() -> None:
    run = learned(Scenario(2), [0, 1])
    run.log(0, 5, other=1)
    run.log(0, 3, loss=1)
    run.log(1, 5, other=1)
    run.tick()
    assert run.rows(3) == []
    run.log(1, 3, loss=3)
    run.tick()
    assert run.row(3)["loss/mean"] == 2


def test_a_reporter_that_is_merely_silent_does_not_leave() -> None:
    run = learned(Scenario(2), [0, 1])
    run.log(0, 1, loss=1)
    run.tick()
    run.wait(30)
    assert run.row(1)["loss/count"] == 1
    run.log(0, 2, loss=1)
    assert run.tick() == []


def test_late_data_does_not_count_as_newer_rows() -> None:
    run = learned(Scenario(2), [0, 1])
    run.log(0, 1, loss=1)
    run.tick()
    run.wait(20)
    run.log(0, 2, loss=1)
    run.tick()
    run.wait(10)  # step 1 closes without rank 1
    run.log(1, 1, loss=1)  # late, while step 2 is open
    run.tick()
    run.wait(20)  # step 2 closes; rank 1 has sent nothing newer than it
    run.log(0, 3, loss=1)
    assert run.tick() == []


def test_a_cell_of_an_older_row_does_not_wait_for_a_rank_that_joined_after_it() -> None:
    run = Scenario(2)
    run.log(0, 0, loss=0, aux=0)
    run.log(1, 0, loss=0)
    run.wait(5)
    run.flush(0, 1)
    run.tick()
    run.log(0, 1, loss=1)  # the row of step 1 is open
    run.log(1, 2, aux=5)  # rank 1 joins from step 2
    run.log(0, 1, aux=3)  # a new cell in the row of step 1
    run.tick()
    run.log(1, 1, loss=1)
    run.tick()
    assert run.row(1)["aux/mean"] == 3
    assert run.rows(2) == []


def test_a_batch_that_says_so_is_a_flush() -> None:
    run = Scenario(2)
    run.log(0, 0, loss=0)
    run.wait(5)
    for rank in (0, 1):
        run.clients[rank].body.flushed = True
        run.send(rank)
    assert len(run.tick()) == 1


# ---- a restart -----------------------------------------------------------------------------------


def test_a_restart_begins_all_waits_anew() -> None:
    run = learned(Scenario(2), [0, 1])
    run.log(0, 1, loss=0)
    run.tick()
    run.wait(29)
    run.restart()
    run.tick()
    assert run.wait(29) == []
    assert len(run.wait(1)) == 1


def test_a_restart_asks_for_flushes_anew() -> None:
    run = Scenario(2)
    run.log(0, 0, loss=0)
    run.tick()
    run.wait(5)
    run.flush(0)
    run.restart()
    run.flush(1)
    assert run.wait(6) == []
    run.flush(0, 1)
    assert len(run.tick()) == 1


# ---- deadlines -----------------------------------------------------------------------------------


def test_nothing_waits_means_no_deadline() -> None:
    run = Scenario(1)
    run.log(0, 0, loss=0)
    run.tick()
    assert run.fold.next_deadline_ns() is None


def test_the_deadline_is_when_something_would_change() -> None:
    run = Scenario(2)
    run.log(0, 0, loss=0)
    run.tick()
    deadlines = []
    for _ in range(3):
        deadline = run.fold.next_deadline_ns()
        assert deadline is not None
        deadlines.append((deadline - 1_000 * 10**9) / 10**9)
        run.wait((deadline - run.now_ns) / 10**9)
    assert deadlines == [0.5, 5, 30]
    assert run.steps() == [0]
    assert run.fold.next_deadline_ns() is None


def test_open_memory_is_bounded_by_closing_the_oldest_rows_as_partial() -> None:
    run = learned(Scenario(2), [0, 1])
    run.log_rows(0, range(1, 11), {"loss": [0] * 10})
    assert run.tick() == []
    run.overflow(4)
    run.tick()
    assert run.steps() == [0, 1, 2, 3, 4]
    assert run.row(4)["loss/count"] == 1
    run.log_rows(1, range(5, 11), {"loss": [0] * 6})
    run.tick()
    assert run.steps() == list(range(11))


def test_the_memory_of_open_rows_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel, "_IDLE_BYTES_MAX", 1024)
    run = learned(Scenario(2), [0, 1])
    attempt = run.fold.attempt
    assert (attempt.open_rows(), attempt.open_bytes()) == (0, 0)
    at_first = attempt.panels[0].values.nbytes
    run.log_rows(0, range(1, 1001), {"loss": [0] * 1000})
    run.tick()
    assert attempt.open_rows() == 1000
    assert attempt.open_bytes() >= 1000 * 8
    run.log_rows(1, range(1, 1001), {"loss": [0] * 1000})
    run.tick()
    assert (attempt.open_rows(), attempt.open_bytes()) == (0, 0)
    assert attempt.panels[0].values.nbytes == at_first
    for rank in (0, 1):
        run.log(rank, 1001, loss=rank)
    run.tick()
    assert run.row(1001)["loss/mean"] == 0.5


def test_overflow_before_anything_is_learned_learns_from_what_is_there() -> None:
    run = Scenario(3)
    run.log_rows(0, range(4), {"loss": [0] * 4})
    run.log_rows(1, range(4), {"loss": [2] * 4})
    run.tick()
    run.overflow(1)
    run.tick()
    assert run.row(0)["loss/mean"] == 1
    assert run.steps() == [0, 1, 2, 3]


def test_overflow_with_nothing_open_does_nothing() -> None:
    run = Scenario(2)
    run.overflow(10)
    assert run.tick() == []


def test_the_end_closes_what_is_open() -> None:
    run = Scenario(3)
    run.log_rows(0, [0, 1], {"loss": [0, 0]})
    run.log(1, 1, loss=2)
    run.tick()
    run.end()
    run.tick()
    assert run.row(0)["loss"] == 0
    assert run.row(1)["loss/mean"] == 1
    assert run.row(1).keys() >= STATISTICS
    assert run.fold.over()


def test_what_comes_after_the_end_is_recorded_at_once() -> None:
    run = learned(Scenario(2), [0, 1])
    run.end()
    run.tick()
    run.log(0, 1, loss=5, fresh=1)
    run.tick()
    assert run.row(1)["loss"] == 5
    assert run.row(1)["fresh"] == 1


def test_a_run_is_over_when_every_rank_has_gone() -> None:
    run = Scenario(3, connected=[0, 1])
    run.finish(0)
    run.lose(1)
    assert not run.fold.over()
    run.lose(2, "absent")
    assert run.fold.over()
