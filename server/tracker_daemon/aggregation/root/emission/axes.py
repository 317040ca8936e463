"""The axis of each recorded series: a metric other than the step, by the run's rules.

The axis value of a record is that of its row, or else the last one in an earlier row of that rank. A series
whose first record has none stays on the step: one series never mixes two axes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.shared.panel import Bits
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.values.record import AxisColumn
from tracker_daemon.rules.metric_rules import STEP


class SeriesAxes:
    """The axes of one run's series, each fixed at the first record; STEP if it has no other."""

    def __init__(self, rules: Rules, books: Books, notices: list[str]) -> None:
        self._rules = rules
        self._books = books
        self._notices = notices
        self.axis_of: dict[str, str] = {}

    def columns(
        self, names: Sequence[str], valid: Bits, axes: Sequence[Mapping[str, float]]
    ) -> tuple[AxisColumn, ...]:
        """Return the axes of columns ``names``; ``axes`` are the axis values of each record."""
        if not self._rules.axes:
            return ()
        found: defaultdict[str, list[int]] = defaultdict(list)
        for column, name in enumerate(names):
            axis = self.axis_of.get(name)
            if axis is None:
                axis = self.axis_of[name] = self._chosen(name, axes[int(valid[:, column].argmax())])
            if axis != STEP:
                found[axis].append(column)
        return tuple(
            AxisColumn(
                axis, tuple(columns), np.array([values.get(axis, np.nan) for values in axes], np.float64)
            )
            for axis, columns in found.items()
        )

    def _chosen(self, name: str, values: Mapping[str, float]) -> str:
        axis = self._rules.step_axes.of(name)
        if axis is None or axis in (STEP, name):
            return STEP
        if axis in values:
            return axis
        self._books.warn_once(
            self._notices,
            ("axis", name),
            f"{name!r} has the axis {axis!r}, and was logged before any value of {axis!r}; it is recorded "
            f"over the step. Log {axis!r} with it, or earlier.",
        )
        return STEP
