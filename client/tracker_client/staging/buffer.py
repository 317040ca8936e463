"""The staging buffer: logged rows, which many threads append and the sender removes.

``log()`` must cost next to nothing. So its fast path, in ``remote_tracker``, needs no lock: it appends to a
deque and compares two integers. These rules bound the memory:

* A fast row has at most FAST_ROW_VALUES_MAX plain numbers, so it weighs at most FAST_ROW_BYTES_MAX.
* ``limit`` is a number of rows. Up to ``limit`` rows fit the budget, even if every new row has the greatest
  weight of a fast row. Only a call that finds a longer deque acquires the lock. It weighs the rows that are
  new since the last weighing, and sets a new limit or drops rows.
* Other rows (many values, texts, values on a device) are weighed at once, under the lock.

Rows leave at the left end only, under the lock: the sender removes them, or they are dropped. So each row is
counted once. The weight of a row is an affine function of its number of values, so weighing is one C-level
sum.

A dropped row without a step still used up a step: :class:`StepShift` carries that to the sender.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from tracker_client.values.histogram import Histogram
from tracker_client.values.snapshot import Row, Value
from tracker_client.values.wandb_objects import MediaValue

ROW_BYTES = 350
"""Bytes of memory that a row needs beside its values (measured, CPython 3.10 to 3.13)."""
VALUE_BYTES = 75
FAST_ROW_VALUES_MAX = 64
FAST_ROW_BYTES_MAX = ROW_BYTES + FAST_ROW_VALUES_MAX * VALUE_BYTES
NO_ITEMS: Mapping[str, Histogram] = MappingProxyType({})
DROP_AT_ONCE_SHARE = 16
"""A full buffer makes room for this fraction of itself, so that the next calls are fast again."""


class HeavyRow:
    """A row that is not on the fast path.

    ``weight`` is in values. ``deferred`` is True if some values are on a device. ``items`` are the row's
    histograms, by their keys.
    """

    __slots__ = ("deferred", "items", "row", "weight")

    def __init__(
        self, row: Row, weight: int, *, deferred: bool, items: Mapping[str, Histogram] = NO_ITEMS
    ) -> None:
        self.row = row
        self.weight = weight
        self.deferred = deferred
        self.items = items

    def __len__(self) -> int:
        return self.weight

    @property
    def points(self) -> int:
        """The number of its values."""
        return len(self.row)


def weighed(found: Mapping[Any, Value | Histogram | MediaValue]) -> HeavyRow:
    """Return the row of a call; its images and tables are not part of the row."""
    row: Row = {}
    items: dict[Any, Histogram] = {}
    deferred = False
    weight = len(found)
    for key, value in found.items():
        if isinstance(value, Histogram):
            items[key] = value
            weight += len(value)
            continue
        if isinstance(value, MediaValue):
            continue
        row[key] = value
        if isinstance(value, str):
            weight += 4 * len(value) // VALUE_BYTES
        elif not isinstance(value, (float, int)):
            deferred = True
    return HeavyRow(row, weight, deferred=deferred, items=items or NO_ITEMS)


Entry = tuple[int | None, int, Row | HeavyRow, bool]
"""(step, time in nanoseconds, row, commit), as ``log()`` was called."""
_payload: Callable[[Entry], Row | HeavyRow] = itemgetter(2)


def row_of(entry: Entry) -> Row:
    """Return the values of ``entry``."""
    payload = entry[2]
    return payload.row if isinstance(payload, HeavyRow) else payload


def points_of(entry: Entry) -> int:
    """Return the number of values of ``entry``."""
    payload = entry[2]
    return payload.points if isinstance(payload, HeavyRow) else len(payload)


@dataclass(frozen=True)
class StepShift:
    """The effect of dropped rows on the automatic step: ``step = (absolute or step) + plus``."""

    absolute: int | None = None
    plus: int = 0

    def then(self, entries: Iterable[Entry]) -> StepShift:
        """Return this shift followed by the shift of dropping ``entries``."""
        absolute, plus = self.absolute, self.plus
        for step, _, _, commit in entries:
            if step is not None:
                absolute, plus = step, 0
            plus += commit
        return StepShift(absolute, plus)


NO_SHIFT = StepShift()


class StagingBuffer:
    """Rows in the order of the calls. The fast path reads ``rows`` and ``limit`` without a lock.

    A logging thread calls ``wake`` when the buffer has filled past half of its budget.
    """

    def __init__(self, budget_bytes: int, wake: Callable[[], None]) -> None:
        self.rows: deque[Entry] = deque()
        self.limit = 0
        self._lock = threading.Lock()
        self._wake = wake
        self._woken = False
        self._budget_bytes = budget_bytes
        self._weighed_bytes = 0
        self._weighed = 0  # the number of rows, at the left end of the deque, in _weighed_bytes
        self._shift = NO_SHIFT
        self._dropped_points = 0
        self._set_limit()

    # ---- the logging threads ---------------------------------------------------------------------

    def make_room(self) -> None:
        """Weigh new rows. Wake the sender if the buffer fills up; drop the oldest rows if it is full."""
        with self._lock:
            self._weigh_new()
            if self._weighed_bytes > self._budget_bytes:
                self._drop_oldest()
            wake = not self._woken and self._weighed_bytes > self._budget_bytes // 2
            self._woken = self._woken or wake
            self._set_limit()
        if wake:
            self._wake()

    # ---- the sender ------------------------------------------------------------------------------

    def take(self, most: int) -> tuple[StepShift, list[Entry]]:
        """Remove the oldest rows, at most ``most``; return the shift of rows dropped before, and the rows."""
        with self._lock:
            shift, self._shift = self._shift, NO_SHIFT
            taken = self._pop(min(most, len(self.rows)))
            self._woken = False
            self._set_limit()
        return shift, taken

    def set_budget(self, budget_bytes: int) -> None:
        """Change the bytes that the rows may need; the next call of ``log`` enforces the budget."""
        with self._lock:
            self._budget_bytes = budget_bytes
            self._set_limit()

    def drop_rows(self) -> int:
        """Drop every row; return their number. They do not count as ``dropped_points``."""
        with self._lock:
            return len(self._pop(len(self.rows)))

    @property
    def dropped_points(self) -> int:
        """Values in rows that were dropped because the buffer was full."""
        return self._dropped_points

    def count_points(self) -> int:
        """Return the number of values in the buffer."""
        return _points(self.rows.copy())

    # ---- under the lock --------------------------------------------------------------------------

    def _pop(self, count: int) -> list[Entry]:
        popleft = self.rows.popleft
        popped = [popleft() for _ in range(count)]
        were_weighed = min(count, self._weighed)
        self._weighed_bytes -= _weight_bytes(popped[:were_weighed])
        self._weighed -= were_weighed
        return popped

    def _weigh_new(self) -> None:
        try:
            new = list(islice(reversed(self.rows), len(self.rows) - self._weighed))
        except RuntimeError:  # another thread has appended during the iteration; a copy is safe
            rows = self.rows.copy()
            new = list(islice(reversed(rows), len(rows) - self._weighed))
        self._weighed_bytes += _weight_bytes(new)
        self._weighed += len(new)

    def _drop_oldest(self) -> None:
        target = self._budget_bytes - self._budget_bytes // DROP_AT_ONCE_SHARE
        while self._weighed and self._weighed_bytes > target:
            excess_bytes = self._weighed_bytes - target
            dropped = self._pop(max(1, excess_bytes * self._weighed // self._weighed_bytes))
            self._dropped_points += _points(dropped)
            self._shift = self._shift.then(dropped)

    def _set_limit(self) -> None:
        target = self._budget_bytes if self._woken else self._budget_bytes // 2
        headroom = max(0, target - self._weighed_bytes)
        self.limit = self._weighed + headroom // FAST_ROW_BYTES_MAX


def _weight_bytes(entries: list[Entry]) -> int:
    return ROW_BYTES * len(entries) + VALUE_BYTES * sum(map(len, map(_payload, entries)))


def _points(entries: Iterable[Entry]) -> int:
    return sum(map(points_of, entries))
