"""What W&B is told of single metrics, by the run's rules: the axis they are drawn over, and their summary.

W&B takes globs that end in a star only, so each metric is defined by its own name when its first value comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tracker_daemon.backends.wandb.rows import STEP_COLUMN, wandb_name
from tracker_daemon.rules.metric_rules import STEP, MetricSettings, Summary, read_step_axes, read_summaries


class MetricDefinitions:
    """Definitions for one session, each given once."""

    def __init__(self, metrics: MetricSettings) -> None:
        self._axes = read_step_axes(metrics.step_axes)
        self._summaries = read_summaries(metrics.summaries)
        self._has_rules = bool(self._axes.rules or self._summaries.rules)
        self._seen: set[str] = set()

    def due(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Arguments of ``define_metric`` for those of the ``names`` that have rules and are new."""
        if not self._has_rules:
            return
        for name in [name for name in names if name not in self._seen]:
            self._seen.add(name)
            axis, summary = self._axes.of(name), self._summaries.of(name)
            # A star at its end would make a glob of the name.
            if (axis, summary) != (None, None) and name != axis and not name.endswith("*"):
                yield _definition(name, axis or STEP, summary)


def _definition(name: str, axis: str, summary: Summary | None) -> dict[str, Any]:
    definition = {"name": name, "step_metric": STEP_COLUMN if axis == STEP else wandb_name(axis)}
    # The last value stands for a run anyway, and plainly so if it is not asked for.
    if summary not in {None, Summary.LAST}:
        definition["summary"] = summary.value
    return definition
