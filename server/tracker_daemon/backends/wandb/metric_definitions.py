"""Definitions of single metrics in W&B by the run's rules: the axis of their charts, and their summary.

W&B accepts only globs that end in a star. So each metric is defined by its own name, before its first value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tracker_daemon.backends.wandb.rows import STEP_COLUMN, wandb_name
from tracker_daemon.rules.metric_rules import STEP, MetricSettings, Summary, read_step_axes, read_summaries


class MetricDefinitions:
    """The definitions of one session; each is given once."""

    def __init__(self, metrics: MetricSettings) -> None:
        self._axes = read_step_axes(metrics.step_axes)
        self._summaries = read_summaries(metrics.summaries)
        self._has_rules = bool(self._axes.rules or self._summaries.rules)
        self._seen: set[str] = set()

    def due(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Yield arguments of ``define_metric`` for those ``names`` that have rules and are new."""
        if not self._has_rules:
            return
        for name in [name for name in names if name not in self._seen]:
            self._seen.add(name)
            axis, summary = self._axes.of(name), self._summaries.of(name)
            # W&B would read a name with a star at its end as a glob.
            if (axis, summary) != (None, None) and name != axis and not name.endswith("*"):
                yield _definition(name, axis or STEP, summary)


def _definition(name: str, axis: str, summary: Summary | None) -> dict[str, Any]:
    definition = {"name": name, "step_metric": STEP_COLUMN if axis == STEP else wandb_name(axis)}
    # W&B's default summary is the last value, and has a simpler form than a defined one.
    if summary not in {None, Summary.LAST}:
        definition["summary"] = summary.value
    return definition
