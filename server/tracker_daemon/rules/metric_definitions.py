"""Definitions of metrics: what a script says during the run about the axis and the summary of some metrics.

``define_metric("val/*", step_metric="epoch", summary="max")`` defines the metrics that the glob fits. The
definitions precede the run's settings. Of several that fit a metric, the one that names it decides; else the
one whose glob has the most characters that are no wildcards; of equal ones the latest.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import msgspec

from tracker_daemon.rules.metric_rules import STEP, MetricRules, Summary, metric_of
from tracker_protocol import limits

_WILDCARDS = frozenset("*?[]")


class MetricDefinition(msgspec.Struct, frozen=True, array_like=True):
    """The metrics that ``glob`` fits have the axis and the summary; "" says nothing about it."""

    glob: str
    axis: str = ""
    summary: str = ""


class Definitions:
    """The axes and summaries of one run's metrics: the run's settings, and its script's definitions."""

    def __init__(self, step_axes: MetricRules[str], summaries: MetricRules[Summary]) -> None:
        self._step_axes = step_axes
        self._summaries = summaries
        self.known: dict[str, MetricDefinition] = {}
        """The definitions by glob, the latest last."""
        self.axes: frozenset[str] = frozenset()
        """The metrics that are axes of others."""
        self._note_axes()

    def define(self, definition: MetricDefinition) -> bool:
        """Add a definition; an earlier one of that glob keeps what this one says nothing about.

        Returns False, and adds nothing, if the run has METRIC_DEFINITIONS_MAX others.
        """
        earlier = self.known.get(definition.glob, MetricDefinition(definition.glob))
        if definition.glob not in self.known and len(self.known) >= limits.METRIC_DEFINITIONS_MAX:
            return False
        self.known.pop(definition.glob, None)
        self.known[definition.glob] = MetricDefinition(
            definition.glob, definition.axis or earlier.axis, definition.summary or earlier.summary
        )
        self._note_axes()
        return True

    def adds(self, definition: MetricDefinition) -> bool:
        """Return True if a definition says anything new."""
        known = self.known.get(definition.glob)
        if known is None:
            return True
        return definition.axis not in ("", known.axis) or definition.summary not in ("", known.summary)

    def restore(self, known: list[tuple[str, str, str]]) -> None:
        """Add definitions that a snapshot has, in their order."""
        self.known = {glob: MetricDefinition(glob, axis, summary) for glob, axis, summary in known}
        self._note_axes()

    @property
    def summarises(self) -> bool:
        """True if any metric may have a summary."""
        return bool(self._summaries.rules) or any(one.summary for one in self.known.values())

    def axis_of(self, column: str) -> str | None:
        """Return the axis of a column; None if no rule fits."""
        found = self._deciding(column, "axis")
        return found.axis if found is not None else self._step_axes.of(column)

    def summary_of(self, column: str) -> Summary | None:
        """Return the summary of a column; None if no rule fits."""
        found = self._deciding(column, "summary")
        return Summary(found.summary) if found is not None else self._summaries.of(column)

    def _deciding(self, column: str, about: str) -> MetricDefinition | None:
        fitting = [one for one in self.known.values() if getattr(one, about) and fits(one.glob, column)]
        return max(reversed(fitting), key=lambda one: _precision(one.glob, column), default=None)

    def _note_axes(self) -> None:
        given = {axis for _, axis in self._step_axes.rules} | {one.axis for one in self.known.values()}
        self.axes = frozenset(given - {STEP, ""})


def fits(glob: str, column: str) -> bool:
    """Return True if a glob fits a column's whole name or its metric."""
    metric = metric_of(column)
    return glob in (column, metric) or fnmatchcase(column, glob) or fnmatchcase(metric, glob)


def _precision(glob: str, column: str) -> tuple[bool, int]:
    exact = glob in (column, metric_of(column))
    return exact, sum(character not in _WILDCARDS for character in glob)
