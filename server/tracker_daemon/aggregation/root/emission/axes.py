"""The axis of each recorded series, a metric other than the step, and its summary.

Both come from the run's settings and from its script's definitions. The axis value of a record is that of its
row, or else the last one in an earlier row of that rank. A series keeps the axis of its first record, so that
it never mixes two axes. A series whose first record has no axis value stays on the step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.shared.panel import Bits
from tracker_daemon.aggregation.values.record import AxisColumn
from tracker_daemon.rules.metric_definitions import Definitions, MetricDefinition, fits
from tracker_daemon.rules.metric_rules import STEP, metric_of
from tracker_protocol import limits

_NAMES_SHOWN_MAX = 3


class SeriesAxes:
    """The axes of one run's series, each fixed at the first record; STEP if it has no other.

    While no metric has an axis, nothing is kept of the series. Once one has, ``on_step`` are the metrics that
    were recorded before. ``others_on_step``: so are all series of texts and of a rank's own statistics.
    """

    def __init__(self, definitions: Definitions, books: Books, notices: list[str]) -> None:
        self.definitions = definitions
        self._books = books
        self._notices = notices
        self.axis_of: dict[str, str] = {}
        self.on_step: set[str] = set()
        self.others_on_step = False
        self._summary_of: dict[str, str] = {}

    def define(self, definition: MetricDefinition, recorded: Iterable[str], *, others_recorded: bool) -> str:
        """Add a definition; return a sentence for the user, "" if there is nothing to say.

        ``recorded`` are the metrics that have records so far; ``others_recorded``: texts, or a rank's own
        statistics, may have some.
        """
        if not self.definitions.adds(definition):
            return ""
        if not self.definitions.axes:
            self.on_step, self.others_on_step = set(recorded), others_recorded
        self._summary_of.clear()
        if not self.definitions.define(definition):
            return (
                f"define_metric({definition.glob!r}): the run has {limits.METRIC_DEFINITIONS_MAX} other "
                "globs; this one has no effect. Define several metrics by one glob"
            )
        return self._kept_axes(definition) if definition.axis else ""

    def _kept_axes(self, definition: MetricDefinition) -> str:
        """Return a sentence about the series that keep another axis than the defined one."""
        kept = {metric_of(name) for name, axis in self.axis_of.items() if axis != definition.axis}
        fitting = sorted(
            name for name in kept | self.on_step if name != definition.axis and fits(definition.glob, name)
        )
        if not fitting:
            return ""
        shown = ", ".join(map(repr, fitting[:_NAMES_SHOWN_MAX])) + (
            f" and {len(fitting) - _NAMES_SHOWN_MAX} more" if len(fitting) > _NAMES_SHOWN_MAX else ""
        )
        return (
            f"define_metric({definition.glob!r}) came after the first record of {shown}, which keeps its "
            "axis; define metrics before they are logged"
        )

    def columns(
        self,
        names: Sequence[str],
        valid: Bits,
        texts: Mapping[str, int],
        axes: Sequence[Mapping[str, float]],
        metrics: Mapping[str, object],
    ) -> tuple[AxisColumn, ...]:
        """Return the axes of columns ``names`` and of ``texts``, which have the row of their first text.

        ``axes`` are the axis values of each record; ``metrics`` are those with numbers of several ranks.
        """
        if not self.definitions.axes:
            return ()
        found: defaultdict[str, list[int]] = defaultdict(list)
        for column, name in enumerate(names):
            axis = self.axis_of.get(name)
            if axis is None:
                axis = self._fixed(
                    name, axes[int(valid[:, column].argmax())], other=metric_of(name) not in metrics
                )
            if axis != STEP:
                found[axis].append(column)
        along: defaultdict[str, list[str]] = defaultdict(list)
        for name, row in texts.items():
            axis = self.axis_of.get(name) or self._fixed(name, axes[row], other=True)
            if axis != STEP:
                along[axis].append(name)
        return tuple(
            AxisColumn(
                axis,
                tuple(found[axis]),
                np.array([values.get(axis, np.nan) for values in axes], np.float64),
                tuple(along[axis]),
            )
            for axis in {**found, **along}
        )

    def summaries(self, names: Sequence[str]) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Return the summaries of columns ``names``, each with the positions of its columns."""
        if not self.definitions.summarises:
            return ()
        found: defaultdict[str, list[int]] = defaultdict(list)
        for column, name in enumerate(names):
            kind = self._summary_of.get(name)
            if kind is None:
                summary = self.definitions.summary_of(name)
                kind = self._summary_of[name] = "" if summary is None else summary.value
            if kind:
                found[kind].append(column)
        return tuple((kind, tuple(columns)) for kind, columns in found.items())

    def of_item(self, key: str, values: Mapping[str, float]) -> str:
        """Return the axis of an item's key, whose row has the axis values ``values``."""
        return self.axis_of.get(key) or self._fixed(key, values, other=True)

    def _fixed(self, name: str, values: Mapping[str, float], *, other: bool) -> str:
        kept = (self.others_on_step and other) or metric_of(name) in self.on_step
        axis = self.axis_of[name] = STEP if kept else self._chosen(name, values)
        return axis

    def _chosen(self, name: str, values: Mapping[str, float]) -> str:
        axis = self.definitions.axis_of(name)
        if axis is None or axis in (STEP, name):
            return STEP
        if axis in values:
            return axis
        self._books.warn_once(
            self._notices,
            ("axis", axis),
            f"{metric_of(name)!r} has the axis {axis!r}, and was logged before any value of {axis!r}; such a "
            f"metric is recorded over the step. Log {axis!r} with it, or earlier",
        )
        return STEP
