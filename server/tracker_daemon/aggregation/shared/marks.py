"""Closed marks: the cells of a panel that have been emitted, for which every further value is late.

The last CLOSED_MARKS_PER_PANEL rows are remembered one by one, as one bit per metric. Of older rows only the
highest step per occurrence is remembered; every cell at or below it counts as closed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tracker_protocol import limits

Key = tuple[int, int]
"""(step, occurrence)"""


class ClosedMarks:
    """The marks of one panel of ``columns`` metrics."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.bits: dict[Key, bytes] = {}
        self.watermarks: dict[int, int] = {}
        self._shared: dict[bytes, bytes] = {}

    def add(self, keys: list[Key], closed: NDArray[np.bool_]) -> None:
        """Mark, for each key, the metrics where its row of ``closed`` (n, columns) is True."""
        packed = np.packbits(closed, axis=1)
        for key, row in zip(keys, packed, strict=True):
            bits = row.tobytes()
            # Almost all rows close all of a panel's metrics: one object serves them all.
            self.bits[key] = self._shared.setdefault(bits, bits)
        self._forget_oldest()

    def any_at(self, key: Key) -> bool:
        """Return True if a metric is closed at ``key``."""
        return key in self.bits or key[0] <= self.watermarks.get(key[1], key[0] - 1)

    def _forget_oldest(self) -> None:
        while len(self.bits) > limits.CLOSED_MARKS_PER_PANEL:
            step, occurrence = next(iter(self.bits))
            del self.bits[step, occurrence]
            known = self.watermarks.get(occurrence)
            self.watermarks[occurrence] = step if known is None else max(known, step)
        if len(self._shared) > limits.CLOSED_MARKS_PER_PANEL:
            self._shared.clear()

    def closed(self, key: Key) -> NDArray[np.bool_] | None:
        """Return which metrics are closed at ``key``, shape (columns,); None if none is."""
        bits = self.bits.get(key)
        if bits is not None:
            return np.unpackbits(np.frombuffer(bits, np.uint8), count=self.columns).astype(np.bool_)
        watermark = self.watermarks.get(key[1])
        if watermark is not None and key[0] <= watermark:
            return np.ones(self.columns, np.bool_)
        return None
