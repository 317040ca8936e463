"""Definitions that a script makes during its run: which of several decides, and their bound."""

from __future__ import annotations

from tracker_daemon.rules.metric_definitions import Definitions, MetricDefinition
from tracker_daemon.rules.metric_rules import Summary, read_step_axes, read_summaries
from tracker_protocol import limits


def definitions(*given: tuple[str, str, str], step_axes: str = "", summaries: str = "") -> Definitions:
    made = Definitions(read_step_axes(step_axes), read_summaries(summaries))
    for one in given:
        assert made.define(MetricDefinition(*one))
    return made


def test_the_most_precise_definition_decides_in_whatever_order_they_come() -> None:
    given = [("*", "global_step", ""), ("val/*", "epoch", ""), ("val/acc", "step", "")]
    for ordered in (given, given[::-1]):
        made = definitions(*ordered)
        axes = {name: made.axis_of(name) for name in ("loss", "val/loss/mean", "val/acc", "val/acc/rank8")}
        assert axes == {
            "loss": "global_step", "val/loss/mean": "epoch", "val/acc": "step", "val/acc/rank8": "step",
        }  # fmt: skip
        assert made.axes == {"global_step", "epoch"}


def test_of_equally_precise_globs_the_latest_decides() -> None:
    assert definitions(("a/*", "x", ""), ("*/a", "y", "")).axis_of("a/a") == "y"
    assert definitions(("*/a", "y", ""), ("a/*", "x", "")).axis_of("a/a") == "x"


def test_definitions_precede_the_settings_and_keep_what_a_later_one_does_not_name() -> None:
    made = definitions(
        ("val/*", "", "max"),
        ("val/*", "epoch", ""),
        step_axes="val/*=hour,test/*=hour",
        summaries="val/*=min",
    )
    assert (made.axis_of("val/loss"), made.summary_of("val/loss")) == ("epoch", Summary.MAX)
    assert (made.axis_of("test/loss"), made.summary_of("test/loss")) == ("hour", None)
    assert not made.adds(MetricDefinition("val/*", "epoch", "max"))
    assert made.adds(MetricDefinition("val/*", "hour"))


def test_a_run_has_a_bounded_number_of_globs() -> None:
    made = definitions(*((f"m{i}", "epoch", "") for i in range(limits.METRIC_DEFINITIONS_MAX)))
    assert not made.define(MetricDefinition("further", "epoch"))
    assert made.define(MetricDefinition("m0", "hour"))
    assert (made.axis_of("further"), made.axis_of("m0")) == (None, "hour")
