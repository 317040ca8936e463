"""Rows of histograms: those that a rank logged in one call, such as a model's.

Without such rows one call would make hundreds of outbox entries, and hundreds of rows at W&B. A row has the
histograms of one tick and is then journalled. So a delivery repeated after a crash finds the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

import msgspec

from tracker_daemon.aggregation.values.item import Item

KIND = "histogram"


class HistogramRow(msgspec.Struct, frozen=True, array_like=True):
    """Histograms of one call at one step; ``documents`` are texts of JSON objects, by their keys.

    ``axes`` are as those of the items; ``axis_of`` has the axis of each key that has one.
    """

    attempt: int
    step: int
    time_ns: int
    documents: dict[str, str]
    axes: dict[str, float] = {}
    axis_of: dict[str, str] = {}

    def to_bytes(self) -> bytes:
        """Encode for the outbox; :meth:`from_bytes` returns an equal row."""
        return msgspec.msgpack.encode(self)

    @staticmethod
    def from_bytes(payload: bytes) -> HistogramRow:
        """Decode the bytes of :meth:`to_bytes`; raises ValueError for anything else."""
        return _decode(payload)

    def items(self) -> Iterator[Item]:
        """Yield one item for each histogram."""
        for key, document in self.documents.items():
            yield Item(KIND, key, self.step, self.time_ns, document, attempt=self.attempt)


_decode = msgspec.msgpack.Decoder(HistogramRow).decode


def is_histogram(item: Item) -> bool:
    """Return True if an item is a histogram that joins a row."""
    return item.kind == KIND and not item.contents


def histogram_rows(items: Iterable[Item]) -> Iterator[HistogramRow]:
    """Yield the histograms among ``items`` as rows, in their order."""
    for (attempt, step, time_ns, _), group in groupby(filter(is_histogram, items), _call):
        alike = list(group)
        documents = {item.key: item.document for item in alike}
        axis_of = {item.key: item.axis for item in alike if item.axis}
        yield HistogramRow(attempt, step, time_ns, documents, alike[0].axes, axis_of)


def _call(item: Item) -> tuple[int, int, int, int]:
    return item.attempt, item.step, item.time_ns, item.rank
