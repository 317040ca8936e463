"""Rows of a W&B run's history, made of records and histograms.

W&B drops a row whose ``_step`` is not above the ``_step`` of the row before. So ``_step`` is the training
step while that rises, and otherwise the last ``_step`` plus one. Late records and repeated steps are kept
that way. ``_step`` follows from the order of the records alone, so a repeated delivery computes the same
steps. The column ``step`` holds the training step, and is the axis of all columns without another axis. A row
with a value over another axis also has the axis value, even if the axis metric is in another record.
Histograms have rows of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from tracker_daemon.aggregation.shared.histograms import HistogramRow
from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.column_names import ColumnNames, contested_by
from tracker_daemon.backends.decoding import rows_of
from tracker_daemon.backends.wandb.transaction_log import LoggedRow

STEP_COLUMN = "step"
TIME_COLUMN = "_timestamp"
NO_STEP = -1

_TAKEN = {
    STEP_COLUMN: "step/local",
    **{name: f"logged{name}" for name in ("_step", TIME_COLUMN, "_runtime", "_wandb")},
}
"""Names that W&B or the axis reserves, and for each the column of a metric that has its name."""


class _Histogram(msgspec.Struct):
    edges: list[float]
    counts: list[float]


def wandb_rows(
    block: RecordBlock, last_step: int, name_of: Callable[[str], str] | None = None
) -> Iterator[LoggedRow]:
    """Yield the rows for ``block``; ``last_step`` is the ``_step`` of the row before them.

    ``name_of`` gives the name of a column in W&B; the default is :func:`wandb_name`.
    """
    name_of = name_of or wandb_name
    along = [
        (axis, {name_of(name) for name in (*(block.columns[i] for i in axis.columns), *axis.texts)})
        for axis in block.axes
    ]
    for at, (step, time_ns, cells) in enumerate(rows_of(block, name_of)):
        last_step = max(step, last_step + 1)
        needed = {axis.name: float(axis.values[at]) for axis, names in along if not names.isdisjoint(cells)}
        known = axis_values(needed, name_of)
        yield LoggedRow(last_step, {**known, **cells, STEP_COLUMN: step, TIME_COLUMN: time_ns / 1e9})


def axis_values(axes: Mapping[str, float], name_of: Callable[[str], str] | None = None) -> dict[str, float]:
    """Return the columns of ``axes``, values of metrics that are axes of others; NaN has none."""
    return {(name_of or wandb_name)(name): value for name, value in axes.items() if math.isfinite(value)}


def histogram_row(
    row: HistogramRow, last_step: int, name_of: Callable[[str], str] | None = None
) -> LoggedRow:
    """Return the row for ``row``, in W&B's own spelling: the SDK's log gives it back as it was written.

    Raises:
        ValueError: one of the documents is no histogram.
    """
    values: dict[str, Any] = {
        (name_of or wandb_name)(key): wandb_histogram(text) for key, text in row.documents.items()
    }
    values = {**axis_values(row.axes, name_of), **values}
    values[STEP_COLUMN] = row.step
    values[TIME_COLUMN] = row.time_ns / 1e9
    return LoggedRow(max(row.step, last_step + 1), values)


def wandb_histogram(document: str) -> dict[str, Any]:
    """Return a histogram's document in W&B's own spelling; raises ValueError if it is no histogram."""
    histogram = msgspec.json.decode(document, type=_Histogram)
    edges, bins = histogram.edges, len(histogram.counts)
    if len(edges) == 2:
        edges = np.linspace(edges[0], edges[1], bins + 1).tolist()
    if len(edges) != bins + 1:
        raise ValueError(f"a histogram of {bins} bins has {len(edges)} edges")
    return {"_type": "histogram", "values": histogram.counts, "bins": edges}


def names_of_run(owners: Mapping[str, str] | None = None) -> ColumnNames:
    """Return the names of a run's columns in W&B; no two columns share one."""
    return ColumnNames(wandb_name, owners, is_contested=contested_by(_TAKEN.values()))


def wandb_name(column: str) -> str:
    """Return the name of a column in W&B: its own name, unless W&B or the axis reserves that."""
    return _TAKEN.get(column, column)
