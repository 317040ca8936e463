"""Rules by metric: what they mean, how they are written, and what is refused."""

from __future__ import annotations

import pytest

from tracker_daemon.errors import SettingsError
from tracker_daemon.rules.metric_rules import (
    MetricSettings,
    Summary,
    Thinning,
    read_aggregates,
    read_step_axes,
    read_summaries,
    read_thinning,
)
from tracker_daemon.runs.run_options import RunOptions
from tracker_daemon.settings.loading import load
from tracker_daemon.settings.view import describe


def test_the_first_rule_that_fits_decides_for_a_metric_and_its_columns() -> None:
    rules = read_summaries("eval/acc=max, eval/*=min")
    assert rules.of("eval/acc") is Summary.MAX
    assert rules.of("eval/acc/mean") is Summary.MAX
    assert rules.of("eval/acc/rank8") is Summary.MAX
    assert rules.of("eval/f1/std") is Summary.MIN
    assert rules.of("loss") is None


def test_a_glob_can_mean_a_column_alone() -> None:
    rules = read_summaries("loss/mean=min")
    assert rules.of("loss/mean") is Summary.MIN
    assert rules.of("loss") is None


def test_values_are_what_the_table_says() -> None:
    assert read_aggregates("a=all").of("a") == {"mean", "min", "max", "std", "count"}
    assert read_aggregates("a=none").of("a") == frozenset()
    assert read_aggregates("a=Mean+count").of("a") == {"mean", "count"}
    assert read_step_axes("eval/*=epoch").of("eval/acc") == "epoch"
    thinning = read_thinning("mlflow:eval/*=none,mlflow:*=10,*:loss=1.5s,w*:a=500ms,w*:b=1min", "mlflow")
    assert thinning.of("eval/acc") == Thinning()
    assert thinning.of("loss") == Thinning(every=10)
    assert read_thinning("*:loss=1.5s", "csv").of("loss") == Thinning(window_ns=1_500_000_000)
    assert read_thinning("mlflow:*=1s", "csv").rules == ()


@pytest.mark.parametrize(
    ("read", "text", "told"),
    [
        (read_aggregates, "loss", "'loss' is no rule"),
        (read_aggregates, "loss=median", "'median' in 'loss=median' is no choice of aggregates"),
        (read_aggregates, "loss=none+mean", "no choice"),
        (read_aggregates, "=mean", "no rule"),
        (read_step_axes, "eval/*=", "names no metric"),
        (read_summaries, "loss=best", "it is one of last, min, max, mean, none"),
        (read_thinning, "mlflow=10", "names no backend"),
        (read_thinning, "mlflow:*=0", "is no way to thin"),
        (read_thinning, "mlflow:*=5h", "is no way to thin"),
        (read_thinning, "mlflow:*=0.0000000001s", "is no way to thin"),
        (read_aggregates, "a=all," * 10_000, "characters"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_reason(read, text, told) -> None:
    with pytest.raises(ValueError, match=told.replace("*", r"\*")):
        read(text)


def test_a_runs_rules_come_before_the_daemons() -> None:
    both = MetricSettings(aggregates="loss=min").before(MetricSettings("loss=max,*=none", thinning="csv:*=2"))
    assert both == MetricSettings("loss=min,loss=max,*=none", thinning="csv:*=2")
    with pytest.raises(ValueError, match="summaries: 'x' in 'a=x'"):
        MetricSettings(summaries="a=x").check()


def test_a_settings_file_may_have_them_as_tables(tmp_path) -> None:
    file = tmp_path / "tracker.toml"
    file.write_text(
        '[aggregates]\nlr = "none"\nloss = ["mean", "max"]\n[step_axes]\n"eval/*" = "epoch"\n'
        '[summaries]\n"eval/acc" = "max"\n[thinning]\n"mlflow:*" = 10\n'
    )
    settings = load({"config": file})
    assert RunOptions.from_settings(settings).metrics == MetricSettings(
        "lr=none,loss=mean+max", "eval/*=epoch", "eval/acc=max", "mlflow:*=10"
    )
    shown = {row.name: row.value for row in describe(settings)}
    assert shown["aggregates"] == '"lr=none,loss=mean+max"'
    file.write_text('[summaries]\nloss = "best"\n')
    with pytest.raises(SettingsError, match=r"summaries = .*'best'"):
        load({"config": file})
