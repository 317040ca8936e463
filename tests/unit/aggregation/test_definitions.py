"""Metrics that the script defines during its run: their axes and summaries in the records."""

from __future__ import annotations

from tests.support.aggregation.replaying import assert_replays
from tests.support.aggregation.scenario import Scenario
from tests.unit.aggregation.test_tree_of_folds import TreeOfFolds


def along(run: Scenario) -> dict[str, list[tuple[str, float]]]:
    """By column, the axis and its value in each record; nothing of columns over the step."""
    found: dict[str, list[tuple[str, float]]] = {}
    for block in run.blocks:
        for axis in block.axes:
            for name in (*(block.columns[at] for at in axis.columns), *axis.texts):
                found.setdefault(name, []).extend((axis.name, value) for value in axis.values.tolist())
    return found


def summaries(run: Scenario) -> set[tuple[str, str]]:
    return {
        (block.columns[at], kind)
        for block in run.blocks
        for kind, columns in block.summaries
        for at in columns
    }


def test_a_definition_holds_for_the_metrics_that_come_later() -> None:
    run = Scenario(1)
    run.log(0, 0, {"loss": 1.0})
    run.tick()
    run.define(0, "val/*", "epoch", "max")
    run.log(0, 1, {"epoch": 3.0, "val/loss": 2.0})
    run.say(0, 1, **{"val/note": "1.5"})
    run.tick()
    run.log(0, 2, {"val/acc": 0.5})
    run.tick()
    assert along(run) == {
        "val/loss": [("epoch", 3.0)],
        "val/note": [("epoch", 3.0)],
        "val/acc": [("epoch", 3.0)],
    }
    assert summaries(run) == {("val/loss", "max"), ("val/acc", "max")}
    assert run.warnings == []
    assert_replays(run)


def test_a_definition_in_the_batch_of_the_first_values_holds_for_them() -> None:
    run = Scenario(1)
    client = run.clients[0]
    client.add_rows([4], {"epoch": [2.0], "val/loss": [1.0]}, [0], False)
    client.body.definitions.add(glob="val/loss", step_metric="epoch")
    run.send(0)
    run.tick()
    assert along(run) == {"val/loss": [("epoch", 2.0)]}


def test_a_metric_that_is_recorded_keeps_its_axis_with_one_warning() -> None:
    run = Scenario(1)
    run.log(0, 0, {"epoch": 0.0, "val/loss": 1.0})
    run.log_own(0, 0, {"val/grad": 1.0})
    run.tick()
    run.define(0, "val/*", "epoch")
    run.log(0, 1, {"epoch": 1.0, "val/loss": 2.0, "val/acc": 0.5})
    run.log_own(0, 1, {"val/grad": 2.0})
    run.tick()
    run.define(0, "val/*", "epoch")
    run.tick()
    assert along(run) == {"val/acc": [("epoch", 1.0)]}
    (warning,) = run.warnings
    assert "'val/loss', which keeps its axis" in warning
    assert_replays(run)


def test_an_axis_that_is_defined_again_holds_for_later_metrics_alone() -> None:
    run = Scenario(1, step_axes="val/*=epoch")
    run.log(0, 0, {"epoch": 4.0, "hour": 7.0, "val/loss": 1.0})
    run.tick()
    run.define(0, "val/*", "hour")
    run.log(0, 1, {"epoch": 5.0, "hour": 8.0, "val/loss": 2.0, "val/acc": 0.5})
    run.tick()
    assert along(run) == {"val/loss": [("epoch", 4.0), ("epoch", 5.0)], "val/acc": [("hour", 8.0)]}
    assert len(run.warnings) == 1
    assert_replays(run)


def test_the_primary_ranks_definitions_alone_count() -> None:
    run = Scenario(2, primary=1)
    run.define(0, "loss", "x")
    run.define(1, "loss", "epoch")
    for rank in (0, 1):
        run.log(rank, 0, {"epoch": 1.0, "x": 2.0, "loss": 3.0})
    run.tick()
    assert set(along(run)["loss"]) == {("epoch", 1.0)}


def test_a_definition_outlives_the_attempt_and_its_repetition_warns_of_nothing() -> None:
    run = Scenario(1)
    run.define(0, "val/*", "epoch", "min")
    run.log(0, 0, {"epoch": 1.0, "val/loss": 2.0})
    run.tick()
    run.join(0, attempt=2)
    run.define(0, "val/*", "epoch", "min")
    run.log(0, 0, {"epoch": 1.0, "val/loss": 2.0, "val/acc": 0.5})
    run.tick()
    assert along(run) == {"val/loss": [("epoch", 1.0)] * 2, "val/acc": [("epoch", 1.0)]}
    assert run.warnings == []
    assert_replays(run)


def test_a_metric_recorded_in_an_earlier_attempt_keeps_its_axis() -> None:
    run = Scenario(1)
    run.log(0, 0, {"epoch": 1.0, "val/loss": 2.0})
    run.tick()
    run.join(0, attempt=2)
    run.define(0, "val/*", "epoch")
    run.log(0, 0, {"epoch": 1.0, "val/loss": 2.0})
    run.tick()
    assert along(run) == {}
    assert len(run.warnings) == 1


def test_items_have_the_axis_that_is_defined_for_their_keys() -> None:
    run = Scenario(1)
    run.define(0, "samples", "epoch")
    run.log(0, 7, {"epoch": 3.0})
    run.give(0, "table", "samples", step=7, row=0)
    run.give(0, "table", "others", step=7, row=0)
    run.tick()
    assert [(item.key, item.axis, item.axes) for item in run.items] == [
        ("samples", "epoch", {"epoch": 3.0}),
        ("others", "step", {"epoch": 3.0}),
    ]


def test_definitions_pass_through_a_nodes_daemon() -> None:
    run = TreeOfFolds([[0, 1], [2]])
    run.define(0, "val/*", "epoch", "max")
    run.define(2, "val/*", "hour")
    for rank in range(3):
        run.log(rank, 0, {"epoch": 1.0, "hour": 5.0, "val/loss": float(rank)})
    run.cut(everything=True)
    run.tick()
    assert set(along(run)["val/loss/mean"]) == set(along(run)["val/loss"]) == {("epoch", 1.0)}
    assert ("val/loss/mean", "max") in summaries(run)
