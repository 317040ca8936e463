"""The staging buffer: logged rows, which many threads append and the sender removes.

``log()`` must cost next to nothing. So its fast path, in ``remote_tracker``, appends to a deque and compares
two integers. These rules bound the memory:

* A fast row has at most FAST_ROW_VALUES_MAX plain numbers, so it weighs at most FAST_ROW_BYTES_MAX.
* ``limit`` is a number of rows. Up to ``limit`` rows fit the budget, even if every new row has the greatest
  weight of a fast row. Only a call that finds a longer deque makes room. It weighs the rows that are new
  since the last weighing, and sets a new limit or drops rows.
* Other rows (many values, texts, values on a device) are weighed at once.

No call waits for another one, so a signal handler may log, or finish, whatever it interrupts: see
:mod:`~tracker_client.staging.lossy_queue`. One call at a time makes room; another one that comes meanwhile
leaves the room to it. A call that cannot leave the rows to it, since there are too many whatever they weigh,
drops rows unweighed.

The weights are sums of what was ever weighed, taken and dropped. Each has one writer: the call that makes
room, or the sender. The weight of a row is an affine function of its number of values, so weighing is one
C-level sum.

A dropped row without a step still used up a step: :class:`StepShift` carries that to the sender.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from tracker_client.staging.lossy_queue import Dropped, LossyQueue
from tracker_client.values.histogram import Histogram
from tracker_client.values.snapshot import Row, Value
from tracker_client.values.steps import named_step
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
        for entry in entries:
            named = named_step(entry[0], row_of(entry))
            if named is not None:
                absolute, plus = named, 0
            plus += entry[3]
        return StepShift(absolute, plus)


NO_SHIFT = StepShift()


@dataclass(frozen=True)
class DroppedRows:
    """What remains of dropped rows: their effect on the step, and the number of their values."""

    shift: StepShift
    points: int


def _summary_of(entries: tuple[Entry, ...]) -> DroppedRows:
    return DroppedRows(NO_SHIFT.then(entries), _points(entries))


class _Weight(NamedTuple):
    """A number of rows and their weight; replaced as a whole, so that readers see both of one time."""

    rows: int = 0
    size_bytes: int = 0

    def plus(self, entries: Sequence[Entry]) -> _Weight:
        return _Weight(self.rows + len(entries), self.size_bytes + _weight_bytes(entries))


class StagingBuffer:
    """Rows in the order of the calls. The fast path reads ``rows`` and ``limit``.

    A logging thread calls ``wake`` when the buffer has filled past half of its budget.
    """

    def __init__(self, budget_bytes: int, wake: Callable[[], None]) -> None:
        self._queue: LossyQueue[Entry, DroppedRows] = LossyQueue(_summary_of)
        self.rows = self._queue.entries
        self.limit = 0
        self._making_room = threading.Lock()  # nobody waits for it
        self._wake = wake
        self._woken = False
        self._budget_bytes = budget_bytes
        self._weighed = _Weight()
        self._dropped = _Weight()
        self._is_weight_unknown = False  # rows were dropped unweighed
        self._taken = _Weight()  # written by the sender, as is the following
        self._dropped_points = 0
        self._set_limit()

    # ---- the logging threads ---------------------------------------------------------------------

    def make_room(self) -> None:
        """Weigh new rows. Wake the sender if the buffer fills up; drop the oldest rows if it is full."""
        if not self._making_room.acquire(blocking=False):
            self._drop_unweighed()
            return
        try:
            self._weigh_new()
            if self._weight_bytes() > self._budget_bytes:
                self._drop_oldest()
            wake = not self._woken and self._weight_bytes() > self._budget_bytes // 2
            self._woken = self._woken or wake
            self._set_limit()
        finally:
            self._making_room.release()
        if wake:
            self._wake()

    def _drop_unweighed(self) -> None:
        count = len(self.rows)
        if count * ROW_BYTES > self._budget_bytes:
            self._is_weight_unknown = True
            self._queue.drop(max(1, count // DROP_AT_ONCE_SHARE))

    # ---- the sender ------------------------------------------------------------------------------

    def take(self, most: int) -> list[Entry | Dropped[DroppedRows]]:
        """Remove the oldest rows, at most ``most``; between them stands what remains of dropped ones."""
        taken = self._queue.take(most)
        self._taken = self._taken.plus([one for one in taken if not isinstance(one, Dropped)])
        self._dropped_points += sum(one.summary.points for one in taken if isinstance(one, Dropped))
        self._woken = False
        self._set_limit()
        return taken

    def set_budget(self, budget_bytes: int) -> None:
        """Change the bytes that the rows may need; the next call of ``log`` enforces the budget."""
        self._budget_bytes = budget_bytes
        self._set_limit()

    # ---- any thread ------------------------------------------------------------------------------

    def drop_rows(self) -> int:
        """Remove every row, once nothing is recorded any more; return their number."""
        removed = 0
        while self.rows:
            self.rows.popleft()
            removed += 1
        return removed

    @property
    def dropped_points(self) -> int:
        """Values in rows that were dropped because the buffer was full."""
        return self._dropped_points + sum(dropped.points for dropped in self._queue.summaries())

    def count_points(self) -> int:
        """Return the number of values in the buffer."""
        return _points(self.rows.copy())

    # ---- weights: written by the call that makes room ----------------------------------------------

    def _weight_bytes(self) -> int:
        """Return the weight of the weighed rows that are still here."""
        return self._weighed.size_bytes - self._taken.size_bytes - self._dropped.size_bytes

    def _removed_rows(self) -> int:
        return self._taken.rows + self._dropped.rows

    def _weigh_new(self) -> None:
        removed, taken = self._removed_rows(), self._taken
        if self._is_weight_unknown or removed >= self._weighed.rows:
            # None of the rows is weighed, or none is known to be.
            self._is_weight_unknown = False
            self._weighed = _Weight(removed, taken.size_bytes + self._dropped.size_bytes)
        count = removed + len(self.rows) - self._weighed.rows
        if count > 0:
            self._weighed = self._weighed.plus(_newest(self.rows, count))

    def _drop_oldest(self) -> None:
        target = self._budget_bytes - self._budget_bytes // DROP_AT_ONCE_SHARE
        while self.rows and (excess_bytes := self._weight_bytes() - target) > 0:
            share = excess_bytes / max(1, self._weight_bytes())
            dropped = self._queue.drop(max(1, int(share * len(self.rows))))
            self._dropped = self._dropped.plus(dropped)

    def _set_limit(self) -> None:
        if self._is_weight_unknown:
            self.limit = 0  # the next call weighs all rows
            return
        target = self._budget_bytes if self._woken else self._budget_bytes // 2
        headroom = max(0, target - self._weight_bytes())
        self.limit = max(0, self._weighed.rows - self._removed_rows()) + headroom // FAST_ROW_BYTES_MAX


def _newest(rows: deque[Entry], count: int) -> list[Entry]:
    try:
        return list(islice(reversed(rows), count))
    except RuntimeError:  # another thread has appended during the iteration; a copy is safe
        return list(islice(reversed(rows.copy()), count))


def _weight_bytes(entries: Sequence[Entry]) -> int:
    return ROW_BYTES * len(entries) + VALUE_BYTES * sum(map(len, map(_payload, entries)))


def _points(entries: Iterable[Entry]) -> int:
    return sum(map(points_of, entries))
