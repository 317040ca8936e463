"""From what a row holds beside its values to items of the stream."""

from __future__ import annotations

from tracker_client.histogram import KIND
from tracker_client.items import PlacedItem
from tracker_client.refusals import Refusals
from tracker_client.rows import LoggedRow
from tracker_protocol import limits


def items_of(row: LoggedRow, refusals: Refusals) -> list[PlacedItem]:
    """The row's histograms, at its step; what cannot be one is refused."""
    placed = []
    for key, histogram in row.items.items():
        try:
            size, document = len(key.encode()), histogram.document()
        except (TypeError, ValueError) as error:  # a name without Unicode, counts that are no numbers
            refusals.refuse(key, f"this histogram cannot be written as JSON ({error}); it is not recorded")
            continue
        if not 1 <= size <= limits.METRIC_NAME_MAX_BYTES:
            refusals.refuse(key, f"a name has 1 to {limits.METRIC_NAME_MAX_BYTES} bytes, not {size}")
        elif len(document) > limits.ITEM_DOCUMENT_MAX_BYTES:
            most = limits.ITEM_DOCUMENT_MAX_BYTES
            reason = f"this histogram has {len(document)} characters of JSON; {most} may be recorded"
            refusals.refuse(key, reason)
        else:
            placed.append(PlacedItem(KIND, key, row.step, row.automatic, row.time_ns, document, ()))
    return placed
