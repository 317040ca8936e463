"""A panel: storage for metrics that were first logged together, dense by rank.

The metrics of an attempt are split into panels: when a rank logs a set of metrics, those not seen before form
a new panel and stay in it. Usually all ranks log the same metrics in one call. Then one numpy assignment
writes a whole block of a rank. A *slot* is a rank's place in the panel; only ranks that report one of its
metrics have one. A *row* is a (step, occurrence).

The panels of root and node add arrays of their own by slot, by metric and by row.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.numbers.accumulator import with_room
from tracker_daemon.aggregation.numbers.summary import Floats, Integers
from tracker_daemon.aggregation.shared.marks import Key
from tracker_daemon.aggregation.shared.occurrence import OccurrenceCounter
from tracker_daemon.aggregation.shared.placement import Index, index_of, numbers_of
from tracker_daemon.aggregation.values.batch import Kinds
from tracker_protocol.kinds import Kind

Bits = NDArray[np.bool_]
_ROWS_AT_FIRST = 8
_IDLE_BYTES_MAX = 32 * 1024 * 1024
"""Room that an empty panel keeps, so that steady bursts do not allocate it each time."""


class Panel:
    """The rows of ``names``, for one attempt. ``seen`` is (rows, slots, metrics): which values there are.

    ``kinds`` are those of ``values``; None as long as all are floats.
    """

    ROW_ARRAYS: ClassVar[tuple[str, ...]] = ("values", "seen", "step", "occurrence", "time_ns", "in_use")
    values: Floats

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.ranks: list[int] = []
        self.slot_of: dict[int, int] = {}
        self.slots = 0
        """The slots that there is room for."""
        self.occurrences = OccurrenceCounter(0, len(names))
        self.row_of: dict[Key, int] = {}
        self.allocate(_ROWS_AT_FIRST)

    @property
    def width(self) -> int:
        """The number of metrics."""
        return len(self.names)

    # ---- storage ---------------------------------------------------------------------------------

    def allocate(self, capacity: int) -> None:
        """Make room for ``capacity`` rows, all of them free; what was there is gone."""
        self.seen: Bits = np.zeros((capacity, self.slots, self.width), np.bool_)
        self.step: Integers = np.zeros(capacity, np.int64)
        self.occurrence: Integers = np.zeros(capacity, np.int64)
        self.time_ns: Integers = np.zeros(capacity, np.int64)
        self.in_use: Bits = np.zeros(capacity, np.bool_)
        self.free = list(range(capacity - 1, -1, -1))
        self.kinds: Kinds | None = None

    def grow_rows(self) -> None:
        """Double the room for rows."""
        old = {name: getattr(self, name) for name in self.ROW_ARRAYS}
        capacity, free, kinds = len(self.step), self.free, self.kinds
        self.allocate(2 * capacity)
        for name, array in old.items():
            getattr(self, name)[:capacity] = array
        self.free = [*range(2 * capacity - 1, capacity - 1, -1), *free]
        if kinds is not None:
            self.kinds = np.zeros(self.values.shape, np.uint8)
            self.kinds[:capacity] = kinds

    def slot(self, rank: int) -> int:
        """Return the rank's slot; make one if it has none."""
        slot = self.slot_of.get(rank)
        if slot is None:
            slot = self.slot_of[rank] = len(self.ranks)
            self.ranks.append(rank)
            if slot >= self.slots:
                self.grow_slots(max(4, 2 * slot))
        return slot

    def grow_slots(self, slots: int) -> None:
        """Make room for ``slots`` slots."""
        self.slots = slots
        self.occurrences.grow(slots)
        self.seen = with_room(self.seen, slots)

    def widen_values(self, places: int) -> None:
        """Make room for the values of ``places`` ranks."""
        self.values = with_room(self.values, places)
        if self.kinds is not None:
            self.kinds = with_room(self.kinds, places)

    def set_values(self, at: tuple[Index, int, Index], values: Floats, kinds: Kinds | None) -> None:
        """Set the values of a rank; ``kinds`` None: all are floats."""
        self.values[at] = values
        if kinds is not None and self.kinds is None:
            self.kinds = np.zeros(self.values.shape, np.uint8)
        if self.kinds is not None:
            self.kinds[at] = Kind.FLOAT if kinds is None else kinds

    def live_rows(self) -> Integers:
        """Return all rows in use, in the order in which they were opened."""
        return np.fromiter(self.row_of.values(), np.int64, len(self.row_of))

    def live_bytes(self) -> int:
        """Return the memory that the rows in use hold."""
        return len(self.row_of) * self.array_bytes() // max(1, len(self.step))

    def array_bytes(self) -> int:
        """Return the memory of the large arrays, for all rows."""
        return self.values.nbytes + self.seen.nbytes + (0 if self.kinds is None else self.kinds.nbytes)

    # ---- rows ------------------------------------------------------------------------------------

    def take_rows(self, keys: list[Key], times_ns: Integers) -> list[int]:
        """Return free rows, which are from now on those of ``keys``, each of which is there once."""
        while len(self.free) < len(keys):
            self.grow_rows()
        kept = len(self.free) - len(keys)
        rows = self.free[kept:][::-1]
        del self.free[kept:]
        self.row_of.update(zip(keys, rows, strict=True))
        at = index_of(rows)
        self.step[at], self.occurrence[at] = np.array(keys, np.int64).T
        self.time_ns[at] = times_ns
        self.in_use[at] = True
        return rows

    def keys_at(self, rows: Index) -> list[Key]:
        """Return the (step, occurrence) of each of ``rows``."""
        return list(zip(self.step[rows].tolist(), self.occurrence[rows].tolist(), strict=True))

    def free_rows(self, rows: Index) -> None:
        """Forget what ``rows`` hold. A panel that becomes empty returns large memory."""
        for key in self.keys_at(rows):
            del self.row_of[key]
        self.free.extend(numbers_of(rows)[::-1].tolist())  # so that they are taken in this order again
        self.in_use[rows] = False
        if not self.row_of and self.values.nbytes > _IDLE_BYTES_MAX:
            self.shrink()
        else:
            self.clear(rows)

    def shrink(self) -> None:
        """Return the memory of an empty panel."""
        self.allocate(_ROWS_AT_FIRST)

    def clear(self, rows: Index) -> None:
        """Make ``rows`` as new rows are."""
        self.seen[rows] = False
