"""Which aggregates are recorded, where a rule by metric chooses them."""

from __future__ import annotations

from tests.support.aggregation.scenario import Scenario
from tracker_daemon.aggregation.root import snapshot


def test_a_rule_chooses_the_aggregates_of_the_metrics_that_it_fits() -> None:
    run = Scenario(2, aggregates="lr=none,loss=mean+max")
    for rank in range(2):
        run.log(rank, step=0, lr=0.1, loss=float(rank), other=float(rank))
    run.tick()
    assert run.row(0) == {
        "lr": 0.1, "loss": 0, "loss/mean": 0.5, "loss/max": 1,
        "other": 0, "other/mean": 0.5, "other/min": 0, "other/max": 1, "other/std": 0.5,
    }  # fmt: skip


def test_the_first_rule_that_fits_decides() -> None:
    run = Scenario(2, aggregates="eval/acc=min,eval/*=none,*=all")
    for rank in range(2):
        run.log(rank, 0, {"eval/acc": float(rank), "eval/f1": 1.0})
    run.tick()
    assert run.row(0) == {"eval/acc": 0, "eval/acc/min": 0, "eval/f1": 1}


def test_a_count_that_no_rule_wants_is_not_recorded() -> None:
    for aggregates, counted in (("loss=mean", False), ("loss=mean+count", True), ("", True)):
        run = Scenario(3, aggregates=aggregates)
        for rank in range(3):
            run.log(rank, 0, loss=1.0)
        run.tick()
        run.log(0, 1, loss=1.0)
        run.log(1, 1, loss=1.0)
        run.wait(31)
        run.tick()
        assert ("loss/count" in run.row(1)) is counted


def test_a_name_that_the_daemon_does_not_compute_is_the_scripts_own() -> None:
    run = Scenario(2, aggregates="loss=max")
    for rank in range(2):
        run.log(rank, 0, {"loss": float(rank), "loss/mean": 7.0, "loss/max": 7.0})
    run.tick()
    assert run.row(0).items() >= {"loss": 0, "loss/max": 1, "loss/mean": 7, "loss/max/logged": 7}.items()


def test_the_choice_survives_a_snapshot() -> None:
    run = Scenario(2, aggregates="loss=min")
    run.log(0, 0, loss=1.0)
    run.tick()
    restored = snapshot.load(snapshot.dump(run.fold), run.fold.rules)
    (panel,) = restored.attempt.panels
    assert panel.wanted.tolist() == [[False, True, False, False, False]]
