"""The display of single metrics in MLflow: another axis, and a summary at the run's end.

The fold decides both. MLflow draws a metric over its step, a whole number, and shows its last value. So the
step of a metric whose axis is ``epoch`` is the epoch of the record's row, rounded down. If there is none, the
training step is used.

A summary is a metric of its own, ``loss.min``, with one point that is stored when the run ends: the smallest
value, at its step. The mean covers finite values alone. If delivery thins the records, a summary covers the
records that MLflow received.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.rules.metric_rules import Summary
from tracker_protocol import limits

_SUMMARISED = frozenset(kind.value for kind in (Summary.MIN, Summary.MAX, Summary.MEAN))


class RunningSummary(msgspec.Struct, frozen=True, array_like=True):
    """A column's summary so far: its value, the number of values, and the step and time (ms) of its value.

    ``kind`` is that of :class:`Summary`.
    """

    kind: str
    value: float
    count: int
    step: int
    time_ms: int


def other_steps(block: RecordBlock) -> dict[str, list[int]]:
    """Return the MLflow steps of all rows by column, for the columns whose axis is not the step."""
    found: dict[str, list[int]] = {}
    for axis in block.axes:
        steps = _steps_along(block, axis.values)
        found |= dict.fromkeys((*(block.columns[at] for at in axis.columns), *axis.texts), steps)
    return found


def summarised(block: RecordBlock, summaries: dict[str, RunningSummary]) -> dict[str, RunningSummary]:
    """Return the summaries by column, ``summaries`` extended by the values of ``block``."""
    asked = {column: kind for kind, columns in block.summaries for column in columns if kind in _SUMMARISED}
    if not asked:
        return summaries
    known = dict(summaries)
    for column, kind in asked.items():
        name = block.columns[column]
        if name in known or len(known) < limits.METRICS_PER_RUN_MAX:
            before = known.get(name)
            same = before if before is not None and before.kind == kind else None
            taken = _extended(Summary(kind), block, column, same)
            if taken is not None:
                known[name] = taken
    return known


def named(summaries: dict[str, RunningSummary]) -> Iterator[tuple[str, RunningSummary]]:
    """Yield the summaries to store at the run's end, as (name, summary)."""
    return ((f"{column}.{summary.kind}", summary) for column, summary in summaries.items())


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
            return RunningSummary(kind.value, before.value, count, before.step, before.time_ms)
    return RunningSummary(
        kind.value, value, count, int(block.steps[row]), int(block.times_ns[row]) // 1_000_000
    )
