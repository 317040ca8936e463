"""From records to rows of a W&B run's history.

W&B drops a row whose ``_step`` is not above that of the row before it. So ``_step`` is the training
step while that rises, and one more than the last ``_step`` otherwise: late records and repeated steps
survive. It follows from the records' order alone, so a repeated delivery computes the same again. The
training step stands in the column ``step``, which is the axis of all others. Histograms have rows of
their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from tracker_daemon.aggregation.shared.histograms import HistogramRow
from tracker_daemon.aggregation.shared.record import RecordBlock
from tracker_daemon.backends.wandb.transaction_log import LoggedRow

STEP_COLUMN = "step"
TIME_COLUMN = "_timestamp"
NO_STEP = -1

_TAKEN = {
    STEP_COLUMN: "step/local",
    **{name: f"logged{name}" for name in ("_step", TIME_COLUMN, "_runtime", "_wandb")},
}
"""Names that W&B or the axis has, and what a metric of that name is called instead."""


class _Histogram(msgspec.Struct):
    edges: list[float]
    counts: list[float]


def wandb_rows(block: RecordBlock, last_step: int) -> Iterator[LoggedRow]:
    """The rows for ``block``, where ``last_step`` is the ``_step`` of the row before them."""
    names = [wandb_name(column) for column in block.columns]
    texts = _texts_by_row(block)
    valid = None if block.valid is None else block.valid.tolist()
    records = zip(block.steps.tolist(), block.times_ns.tolist(), block.values.tolist(), strict=True)
    for at, (step, time_ns, cells) in enumerate(records):
        last_step = max(step, last_step + 1)
        values: dict[str, Any] = dict(zip(names, cells, strict=True))
        if valid is not None:
            values = {
                name: value for name, value, there in zip(names, cells, valid[at], strict=True) if there
            }
        values.update(texts.get(at, ()))
        values[STEP_COLUMN] = step
        values[TIME_COLUMN] = time_ns / 1e9
        yield LoggedRow(last_step, values)


def histogram_row(row: HistogramRow, last_step: int) -> LoggedRow:
    """The row for ``row``; W&B's own spelling, so that it is read back from the SDK's log as it was written.

    Raises:
        ValueError: one of them is no histogram.
    """
    values: dict[str, Any] = {wandb_name(key): wandb_histogram(text) for key, text in row.documents.items()}
    values[STEP_COLUMN] = row.step
    values[TIME_COLUMN] = row.time_ns / 1e9
    return LoggedRow(max(row.step, last_step + 1), values)


def wandb_histogram(document: str) -> dict[str, Any]:
    """A histogram's document in W&B's own spelling; raises ValueError where it is none."""
    histogram = msgspec.json.decode(document, type=_Histogram)
    edges, bins = histogram.edges, len(histogram.counts)
    if len(edges) == 2:
        edges = np.linspace(edges[0], edges[1], bins + 1).tolist()
    if len(edges) != bins + 1:
        raise ValueError(f"a histogram of {bins} bins has {len(edges)} edges")
    return {"_type": "histogram", "values": histogram.counts, "bins": edges}


def wandb_name(column: str) -> str:
    """The name of a column in W&B: its own, but for those that W&B or the axis has taken."""
    return _TAKEN.get(column, column)


def _texts_by_row(block: RecordBlock) -> dict[int, dict[str, str]]:
    texts: dict[int, dict[str, str]] = {}
    for cell in block.texts:
        texts.setdefault(cell.row, {})[wandb_name(cell.column)] = cell.value
    return texts
