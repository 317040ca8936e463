"""The storage of open cells, and their states.

A node mostly sends a summary over several of its ranks (:mod:`accumulator`). The slot of such a rank then
shows that the rank has reported, but the rank has no *place* among the values. It gets a place with the first
value of its own.

A cell goes through NONE → OPEN (a rank reported it) → CLOSED (it waits for no rank any more) → EMITTED. A row
of a panel has open or unemitted cells.

``home`` shows the rank in whose row a cell is recorded, by a code that is lower for a better home: PRIMARY,
SOLE (the metric's only learned reporter), the number of a recorded rank, or OTHER plus the number of the rank
that reported first. ``home_row`` is the number of that row.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.numbers.accumulator import Accumulators, with_room
from tracker_daemon.aggregation.numbers.summary import Floats, Integers
from tracker_daemon.aggregation.shared.marks import ClosedMarks, Key
from tracker_daemon.aggregation.shared.panel import Bits, Panel
from tracker_daemon.aggregation.shared.placement import Index, cells_at, index_of, numbers_of
from tracker_daemon.aggregation.values.batch import Kinds
from tracker_daemon.rules.metric_names import SUFFIXES

NONE, OPEN, CLOSED, EMITTED = 0, 1, 2, 3
NO_OWNER = -1
PRIMARY, SOLE, OTHER = -2, -1, 1 << 30


def all_are(state: NDArray[np.uint8], value: int) -> bool:
    """Return True if every state is ``value``; this is much faster than an operation of numpy."""
    return state.tobytes() == bytes((value,)) * state.size


class CellPanel(Panel):
    """The cells of ``names``, for one attempt. ``values`` is (rows, places, metrics)."""

    ROW_ARRAYS: ClassVar[tuple[str, ...]] = (
        *Panel.ROW_ARRAYS, "state", "missing", "opened_ns", "bar", "home", "home_row", "own_out", "serial",
        "touched",
    )  # fmt: skip
    places = 0
    """The places that there is room for."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(names)
        width = self.width
        self.place_of: dict[int, int] = {}  # by slot
        self.placed: list[int] = []  # the slot at each place
        self._order: tuple[list[int], Index, Index] = ([], slice(0, 0), slice(0, 0))
        self.marks = ClosedMarks(width)
        self.shown: list[str | None] = [None] * width  # the recorded name, fixed at the first emission
        self.layouts: dict[tuple[bytes, tuple[int, ...]], tuple[str, ...]] = {}  # a cache
        self.kept_names = 0  # the number of the script's names that ``wanted`` gives way to
        self.wanted = np.ones((width, len(SUFFIXES)), np.bool_)  # the aggregates that the rules record
        self.aggregated = np.zeros(width, np.bool_)
        self.owner = np.full(width, NO_OWNER, np.int64)

    # ---- storage ---------------------------------------------------------------------------------

    def allocate(self, capacity: int) -> None:
        """Make room for ``capacity`` rows, all of them free; what was there is gone."""
        super().allocate(capacity)
        self.values: Floats = np.zeros((capacity, self.places, self.width))
        self.accumulators: Accumulators | None = None  # from the first summary on
        self.state = np.zeros((capacity, self.width), np.uint8)
        self.missing = np.zeros((capacity, self.width), np.int32)
        self.opened_ns = np.zeros((capacity, self.width), np.int64)
        self.bar = np.zeros((capacity, self.width), np.int64)
        self.home = np.zeros((capacity, self.width), np.int64)
        self.home_row = np.zeros((capacity, self.width), np.int64)
        self.own_out = np.zeros((capacity, self.width), np.bool_)  # own value emitted before the cell closed
        self.serial = np.zeros(capacity, np.int64)
        self.touched = np.zeros(capacity, np.bool_)  # since the last tick settled

    def grow_rows(self) -> None:
        """Double the room for rows."""
        accumulators = self.accumulators
        super().grow_rows()
        if accumulators is not None:
            accumulators.grow(len(self.step))
            self.accumulators = accumulators

    def place(self, slot: int) -> int:
        """Return the slot's place among the values; make one if it has none."""
        place = self.place_of.get(slot)
        if place is None:
            place = self.place_of[slot] = len(self.placed)
            self.placed.append(slot)
            if place >= self.places:
                self._grow_places(max(4, 2 * place))
        return place

    def _grow_places(self, places: int) -> None:
        self.places = places
        self.widen_values(places)
        if self.accumulators is not None:
            self.accumulators.valued = with_room(self.accumulators.valued, places)

    def rank_order(self) -> tuple[list[int], Index, Index]:
        """Return the ranks that have places, ascending; these places, and their slots."""
        if len(self._order[0]) != len(self.placed):
            ranks = [self.ranks[slot] for slot in self.placed]
            order = sorted(range(len(ranks)), key=ranks.__getitem__)
            slots = [self.placed[place] for place in order]
            self._order = [ranks[place] for place in order], index_of(order), index_of(slots)
        return self._order

    def own_values(self, rows: Index) -> tuple[list[int], Floats, Bits, Kinds | None]:
        """Return the ranks that have places, ascending; their values in ``rows``, which exist, their kinds.

        The arrays may show the panel's own memory.
        """
        ranks, places, slots = self.rank_order()
        at = cells_at(rows, places)
        values, kinds = self.values[at], None if self.kinds is None else self.kinds[at]
        if self.accumulators is None:
            return ranks, values, self.seen[cells_at(rows, slots)], kinds
        return ranks, values, self.accumulators.valued[at], kinds

    def array_bytes(self) -> int:
        """Return the memory of the large arrays, for all rows."""
        return super().array_bytes() + (0 if self.accumulators is None else self.accumulators.nbytes)

    # ---- rows ------------------------------------------------------------------------------------

    def open_rows(self, keys: list[Key], serial: int, times_ns: Integers) -> list[int]:
        """Start rows for ``keys``, with serials from ``serial`` on; metrics already emitted stay EMITTED."""
        rows = self.take_rows(keys, times_ns)
        self.serial[index_of(rows)] = np.arange(serial, serial + len(rows))
        for row, key in zip(rows, keys, strict=True):
            closed = self.marks.closed(key)
            if closed is not None:
                self.state[row, closed] = EMITTED
        return rows

    def oldest_serial(self) -> int:
        """Return the lowest serial of the rows in use; there is one."""
        return int(self.serial[next(iter(self.row_of.values()))])

    def release(self, rows: Index) -> None:
        """Free those of ``rows`` whose reported cells are all emitted, and mark these."""
        if not self.row_of:
            return
        if not all_are(self.state[rows], EMITTED):
            rows = self._emitted(numbers_of(rows))
        serials = self.serial[rows]
        if not len(serials):
            return
        if len(serials) > 1 and (serials[1:] <= serials[:-1]).any():
            # The indices of rows may differ after a replay; the order of marks decides which are forgotten.
            rows = numbers_of(rows)[np.unique(serials, return_index=True)[1]]
        self.marks.add(self.keys_at(rows), self.state[rows] == EMITTED)
        self.free_rows(rows)

    def _emitted(self, rows: Integers) -> Integers:
        """Return those of ``rows`` that are in use and whose reported cells are all emitted."""
        rows = rows[self.in_use[rows]]
        state = self.state[rows]
        emitted: Integers = rows[~((state == OPEN) | (state == CLOSED)).any(axis=1)]
        return emitted

    def shrink(self) -> None:
        """Return the memory of an empty panel; places are kept only if every rank has one."""
        if len(self.placed) < len(self.ranks):
            self.place_of, self.placed = {}, []
            self._order = ([], slice(0, 0), slice(0, 0))
        if not self.placed:
            self.places = 0
        super().shrink()

    def clear(self, rows: Index) -> None:
        """Make ``rows`` as new rows are."""
        super().clear(rows)
        if self.accumulators is not None:
            self.accumulators.clear(rows)
        self.state[rows] = NONE
        self.own_out[rows] = False

    def accumulate(self) -> Accumulators:
        """Return the summaries of the cells; make them at the first. Before it all values are ranks' own."""
        if self.accumulators is None:
            valued = np.zeros(self.values.shape, np.bool_)
            valued[:, : len(self.placed)] = self.seen[:, self.placed]
            self.accumulators = Accumulators(len(self.state), self.width, valued)
        return self.accumulators

    # ---- states ----------------------------------------------------------------------------------

    def take_touched(self) -> Index:
        """Return the rows that were touched since the last call."""
        rows = self.touched.nonzero()[0]
        self.touched[:] = False
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
            return slice(int(rows[0]), int(rows[-1]) + 1)
        return rows

    def set_state(self, rows: Index, chosen: Bits, value: int) -> None:
        """Set the state of ``chosen`` cells (n, metrics) of n ``rows``, which may have a row twice."""
        if chosen.all():
            self.state[rows] = value
        else:
            i, j = chosen.nonzero()
            self.state[numbers_of(rows)[i], j] = value

    def open_points(self) -> int:
        """Return the number of values in cells that are not emitted."""
        rows = self.live_rows()
        unemitted = (self.state[rows] == OPEN) | (self.state[rows] == CLOSED)
        return int((self.seen[rows] & unemitted[:, None, :]).sum())
