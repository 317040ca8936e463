"""The run's rules for the display of single metrics in MLflow: another axis, and a summary at the run's end.

MLflow draws a metric over its step, a whole number, and shows its last value. So the step of a metric whose
axis is ``epoch`` is the epoch of the record's row, rounded down. If there is none, the training step is used.

A summary is a metric of its own, ``loss.min``, with one point that is stored when the run ends: the smallest
value, at its step. The mean covers finite values alone. If delivery thins the records, a summary covers the
records that MLflow received.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.rules.metric_rules import STEP, MetricSettings, Summary, read_step_axes, read_summaries
from tracker_protocol import limits

_SUMMARISED = frozenset({Summary.MIN, Summary.MAX, Summary.MEAN})


class RunningSummary(msgspec.Struct, frozen=True, array_like=True):
    """A column's summary so far: its value, the number of values, and the step and time (ms) of its value."""

    value: float
    count: int
    step: int
    time_ms: int


class MetricDisplay:
    """The display rules of one run."""

    def __init__(self, metrics: MetricSettings) -> None:
        self._axes = read_step_axes(metrics.step_axes)
        self._summaries = read_summaries(metrics.summaries)

    def steps(self, block: RecordBlock) -> dict[int, list[int]]:
        """Return the MLflow steps of all rows for each column, by position, whose axis is not the step."""
        found = self.steps_of(block, block.columns)
        return {column: found[name] for column, name in enumerate(block.columns) if name in found}

    def steps_of(self, block: RecordBlock, names: Iterable[str]) -> dict[str, list[int]]:
        """Return the MLflow steps of all rows by name, for those ``names`` whose axis is not the step."""
        if not self._axes.rules:
            return {}
        along = {axis.name: axis.values for axis in block.axes}
        on_step = set(block.columns) - {block.columns[at] for axis in block.axes for at in axis.columns}
        axes = {name: self._axes.of(name) for name in names if name not in on_step}
        return {
            name: _steps_along(block, along[axis])
            for name, axis in axes.items()
            if axis is not None and axis not in {STEP, name} and axis in along
        }

    def summarised(
        self, block: RecordBlock, summaries: dict[str, RunningSummary]
    ) -> dict[str, RunningSummary]:
        """Return the summaries by column, ``summaries`` extended by the values of ``block``."""
        if not self._summaries.rules:
            return summaries
        known = dict(summaries)
        for column, name in enumerate(block.columns):
            kind = self._summaries.of(name)
            if kind in _SUMMARISED and (name in known or len(known) < limits.METRICS_PER_RUN_MAX):
                taken = _extended(kind, block, column, known.get(name))
                if taken is not None:
                    known[name] = taken
        return known

    def named(self, summaries: dict[str, RunningSummary]) -> Iterator[tuple[str, RunningSummary]]:
        """Yield the summaries to store at the run's end, as (name, summary)."""
        for column, summary in summaries.items():
            kind = self._summaries.of(column)
            if kind in _SUMMARISED:
                yield f"{column}.{kind.value}", summary


def _steps_along(block: RecordBlock, values: NDArray[np.float64]) -> list[int]:
    steps = block.steps.tolist()
    there = np.isfinite(values) & (np.abs(values) <= limits.STEP_MAX)
    return [
        math.floor(value) if good else step
        for value, good, step in zip(values.tolist(), there.tolist(), steps, strict=True)
    ]


def _extended(
    kind: Summary, block: RecordBlock, column: int, before: RunningSummary | None
) -> RunningSummary | None:
    values = block.values[:, column]
    usable = np.isfinite(values) if kind is Summary.MEAN else ~np.isnan(values)
    if block.valid is not None:
        usable &= block.valid[:, column]
    rows = np.flatnonzero(usable)
    if not len(rows):
        return before
    count = len(rows) + (before.count if before else 0)
    if kind is Summary.MEAN:
        row = int(rows[-1])
        total = float(values[rows].sum()) + (before.value * before.count if before else 0.0)
        value = total / count
    else:
        row = int(rows[values[rows].argmin() if kind is Summary.MIN else values[rows].argmax()])
        value = float(values[row])
        if before is not None and (before.value <= value if kind is Summary.MIN else before.value >= value):
            return RunningSummary(before.value, count, before.step, before.time_ms)
    return RunningSummary(value, count, int(block.steps[row]), int(block.times_ns[row]) // 1_000_000)
