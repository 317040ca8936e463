"""The histograms of a row, as items of the stream."""

from __future__ import annotations

from typing import Any

from tracker_client.staging.items import PlacedItem
from tracker_client.staging.rows import LoggedRow
from tracker_client.values.histogram import KIND, Histogram
from tracker_client.values.refusals import Refusals
from tracker_protocol import limits


def items_of(row: LoggedRow, refusals: Refusals) -> list[PlacedItem]:
    """Return the row's histograms as items at the row's step; refuse those that cannot be recorded."""
    placed = []
    for key, histogram in row.items.items():
        try:
            document = _document(key, histogram)
        except ValueError as error:
            refusals.refuse(key, f"{error}; it is not recorded")
        else:
            placed.append(
                PlacedItem(KIND, key, row.step, row.automatic, row.time_ns, document, (), row.number)
            )
    return placed


def _document(key: Any, histogram: Histogram) -> str:
    """Return the item's document.

    Raises:
        ValueError: the name or the histogram cannot be recorded. Errors of Unicode and JSON are kinds of it.
    """
    if not isinstance(key, str):
        raise ValueError(f"a name is a text, not a {type(key).__name__}")  # noqa: TRY004 - as the others
    size = len(key.encode())
    if not 1 <= size <= limits.METRIC_NAME_MAX_BYTES:
        raise ValueError(f"a name has 1 to {limits.METRIC_NAME_MAX_BYTES} bytes, not {size}")
    document = histogram.document()
    if len(document) > limits.ITEM_DOCUMENT_MAX_BYTES:
        most = limits.ITEM_DOCUMENT_MAX_BYTES
        raise ValueError(f"this histogram has {len(document)} characters of JSON, and {most} may be recorded")
    return document
