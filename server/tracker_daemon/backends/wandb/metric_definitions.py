"""Definitions of single metrics in W&B: the axis of their charts, and their summary.

The fold has decided both. W&B accepts only globs that end in a star. So each metric is defined by its own
name, before its first value, and again if its summary changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tracker_daemon.aggregation.shared.histograms import HistogramRow
from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.wandb.rows import STEP_COLUMN
from tracker_daemon.backends.wandb.transaction_log import LoggedMetric
from tracker_daemon.rules.metric_rules import STEP, Summary

NameOf = Callable[[str], str]


def metrics_of(change: RecordBlock | HistogramRow, name_of: NameOf) -> Iterator[LoggedMetric]:
    """Yield the metrics of some rows that have an axis of their own, or a summary."""
    if isinstance(change, HistogramRow):
        yield from metrics_along(change.axis_of, name_of)
        return
    axes = {change.columns[at]: axis.name for axis in change.axes for at in axis.columns}
    axes |= {name: axis.name for axis in change.axes for name in axis.texts}
    summaries = {change.columns[at]: kind for kind, columns in change.summaries for at in columns}
    for name in {**axes, **summaries}:
        axis = axes.get(name, STEP)
        yield LoggedMetric(name_of(name), _axis(axis, name_of), summaries.get(name, ""))


def metrics_along(axis_of: Mapping[str, str], name_of: NameOf) -> Iterator[LoggedMetric]:
    """Yield the metrics of ``axis_of``, which has the axis of each."""
    for name, axis in axis_of.items():
        if axis not in ("", STEP):
            yield LoggedMetric(name_of(name), _axis(axis, name_of))


def _axis(axis: str, name_of: NameOf) -> str:
    return STEP_COLUMN if axis == STEP else name_of(axis)


class MetricDefinitions:
    """The definitions of one session; each is given once."""

    def __init__(self) -> None:
        self._given: dict[str, LoggedMetric] = {}

    def due(self, metrics: Iterable[LoggedMetric]) -> Iterator[dict[str, Any]]:
        """Yield arguments of ``define_metric`` for those of ``metrics`` that are new."""
        for metric in metrics:
            # W&B would read a name with a star at its end as a glob.
            if self._given.get(metric.name) != metric and not metric.name.endswith("*"):
                self._given[metric.name] = metric
                yield _definition(metric)


def _definition(metric: LoggedMetric) -> dict[str, Any]:
    definition = {"name": metric.name, "step_metric": metric.step_metric}
    # W&B's default summary is the last value, and has a simpler form than a defined one.
    if metric.summary not in {"", Summary.LAST.value}:
        definition["summary"] = metric.summary
    return definition
