"""The panel of a daemon that records: the open cells, and the ranks that each cell waits for.

A node mostly sends a summary over several of its ranks (:mod:`accumulator`). The slot of such a rank then
shows that the rank has reported, but the rank has no *place* among the values. It gets a place with the first
value of its own.

A cell goes through NONE → OPEN (a rank reported it) → CLOSED (it waits for no rank any more) → EMITTED. A row
has open or unemitted cells. A cell waits for the ranks of ``member_from``: the rank in slot s is a reporter
of metric m for rows whose serial number is at least ``member_from[s, m]``.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.numbers.accumulator import Accumulators, with_room
from tracker_daemon.aggregation.numbers.summary import Floats, Integers, Summary
from tracker_daemon.aggregation.shared.marks import ClosedMarks, Key
from tracker_daemon.aggregation.shared.panel import Bits, Panel
from tracker_daemon.rules.metric_names import SUFFIXES, aggregate_base

NONE, OPEN, CLOSED, EMITTED = 0, 1, 2, 3
NEVER = np.iinfo(np.int64).max
NO_OWNER = -1
UNLEARNED = -1


class RootPanel(Panel):
    """The cells of ``names``, for one attempt. ``values`` is (rows, places, metrics)."""

    ROW_ARRAYS: ClassVar[tuple[str, ...]] = (*Panel.ROW_ARRAYS, "state", "missing", "opened_ns", "serial")
    places = 0
    """The places that there is room for."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(names)
        width = self.width
        self.place_of: dict[int, int] = {}  # by slot
        self.placed: list[int] = []  # the slot at each place
        self._order = (np.empty(0, np.int64), np.empty(0, np.int64))
        self.marks = ClosedMarks(width)
        # Per slot and metric.
        self.member_from: Integers = np.empty((0, width), np.int64)
        self.ever_member: Bits = np.empty((0, width), np.bool_)
        # Per metric.
        self.aggregable = np.array([aggregate_base(name) is None for name in names], np.bool_)
        self.wanted = np.ones((width, len(SUFFIXES)), np.bool_)  # the aggregates that the rules record
        self.learned = np.zeros(width, np.bool_)
        self.aggregated = np.zeros(width, np.bool_)
        self.owner = np.full(width, NO_OWNER, np.int64)
        self.first_row = np.full(width, UNLEARNED, np.int64)
        self.joined_at = np.zeros(width, np.int64)  # the latest serial from which a reporter counts

    # ---- storage ---------------------------------------------------------------------------------

    def allocate(self, capacity: int) -> None:
        """Make room for ``capacity`` rows, all of them free; what was there is gone."""
        super().allocate(capacity)
        self.values: Floats = np.zeros((capacity, self.places, self.width))
        self.accumulators: Accumulators | None = None  # from the first summary on
        self.state = np.zeros((capacity, self.width), np.uint8)
        self.missing = np.zeros((capacity, self.width), np.int32)
        self.opened_ns = np.zeros((capacity, self.width), np.int64)
        self.serial = np.zeros(capacity, np.int64)

    def grow_rows(self) -> None:
        """Double the room for rows."""
        accumulators = self.accumulators
        super().grow_rows()
        if accumulators is not None:
            accumulators.grow(len(self.step))
            self.accumulators = accumulators

    def grow_slots(self, slots: int) -> None:
        """Make room for ``slots`` slots."""
        super().grow_slots(slots)
        had = len(self.member_from)
        member_from = np.full((slots, self.width), NEVER, np.int64)
        member_from[:had] = self.member_from
        ever_member = np.zeros((slots, self.width), np.bool_)
        ever_member[:had] = self.ever_member
        self.member_from, self.ever_member = member_from, ever_member

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
        self.values = with_room(self.values, places)
        if self.accumulators is not None:
            self.accumulators.valued = with_room(self.accumulators.valued, places)

    def rank_order(self) -> tuple[Integers, Integers]:
        """Return the places in ascending order of their ranks, and the slots that have them."""
        if len(self._order[0]) != len(self.placed):
            placed = np.array(self.placed, np.int64)
            order = np.argsort(np.array(self.ranks, np.int64)[placed], kind="stable")
            self._order = order, placed[order]
        return self._order

    def own_values(self, rows: Integers) -> tuple[Integers, Floats, Bits]:
        """Return the slots that have places, by rank, their values in ``rows``, and which of these exist."""
        places, slots = self.rank_order()
        values = self.values[rows[:, None], places]
        if self.accumulators is None:
            return slots, values, self.seen[rows[:, None], slots]
        return slots, values, self.accumulators.valued[rows[:, None], places]

    def array_bytes(self) -> int:
        """Return the memory of the large arrays, for all rows."""
        return super().array_bytes() + (0 if self.accumulators is None else self.accumulators.nbytes)

    # ---- rows ------------------------------------------------------------------------------------

    def open_row(self, key: Key, serial: int, time_ns: int) -> int:
        """Start a row for ``key``; metrics already emitted there stay EMITTED."""
        row = self.take_row(key, time_ns)
        self.serial[row] = serial
        closed = self.marks.closed(key)
        if closed is not None:
            self.state[row, closed] = EMITTED
        return row

    def release(self, keys: list[Key], rows: Integers) -> None:
        """Mark what was emitted in ``rows``, which are those of ``keys``, and free them."""
        self.marks.add(keys, self.state[rows] == EMITTED)
        self.free_rows(rows)

    def shrink(self) -> None:
        """Return the memory of an empty panel; places are kept only if every rank has one."""
        if len(self.placed) < len(self.ranks):
            self.place_of, self.placed = {}, []
            self._order = (np.empty(0, np.int64), np.empty(0, np.int64))
        if not self.placed:
            self.places = 0
        super().shrink()

    def clear(self, rows: Integers) -> None:
        """Make ``rows`` as new rows are."""
        super().clear(rows)
        if self.accumulators is not None:
            self.accumulators.clear(rows)
        self.state[rows] = NONE

    # ---- contributions ---------------------------------------------------------------------------

    def contribute(
        self, slot: int, rows: Integers, columns: Integers, values: Floats, now_ns: int
    ) -> Bits | None:
        """Write a rank's ``values`` (rows × columns); each of these cells is new to this rank.

        A closed cell takes nothing: return these late (row, column) pairs as a mask, or None if there are
        none.
        """
        state = self.state[rows[:, None], columns]
        late: Bits = state >= CLOSED
        if not late.any():
            self._write(slot, rows, columns, values, state, now_ns)
            return None
        for i in np.flatnonzero(~late.all(axis=1)).tolist():
            row, taken = slice(i, i + 1), np.flatnonzero(~late[i])
            self._write(slot, rows[row], columns[taken], values[row, taken], state[row, taken], now_ns)
        return late

    def _write(
        self,
        slot: int,
        rows: Integers,
        columns: Integers,
        values: Floats,
        state: NDArray[np.uint8],
        now_ns: int,
    ) -> None:
        self._open(rows, columns, state, now_ns)
        place = self.place(slot)
        self.values[rows[:, None], place, columns] = values
        if self.accumulators is not None:
            self.accumulators.valued[rows[:, None], place, columns] = True
        self.seen[rows[:, None], slot, columns] = True
        awaited = self.member_from[slot, columns] <= self.serial[rows][:, None]
        self.missing[rows[:, None], columns] -= awaited

    def summarised(
        self, slots: Integers, rows: Integers, columns: Integers, summary: Summary, now_ns: int
    ) -> Bits | None:
        """Add the ``summary`` (rows × columns) of several ranks, as :meth:`contribute` writes values."""
        state = self.state[rows[:, None], columns]
        late: Bits = state >= CLOSED
        if not late.any():
            self._accumulate(slots, rows, columns, summary, state, now_ns)
            return None
        for i in np.flatnonzero(~late.all(axis=1)).tolist():
            row, taken = slice(i, i + 1), np.flatnonzero(~late[i])
            self._accumulate(slots, rows[row], columns[taken], summary[row, taken], state[row, taken], now_ns)
        return late

    def _accumulate(
        self,
        slots: Integers,
        rows: Integers,
        columns: Integers,
        summary: Summary,
        state: NDArray[np.uint8],
        now_ns: int,
    ) -> None:
        self._open(rows, columns, state, now_ns)
        self.accumulate().add(rows, columns, summary)
        self.seen[rows[:, None, None], slots[:, None], columns] = True
        awaited = self.member_from[slots[:, None], columns] <= self.serial[rows][:, None, None]
        self.missing[rows[:, None], columns] -= awaited.sum(axis=1, dtype=np.int32)

    def accumulate(self) -> Accumulators:
        """Return the summaries of the cells; make them at the first. Before it all values are ranks' own."""
        if self.accumulators is None:
            valued = np.zeros(self.values.shape, np.bool_)
            valued[:, : len(self.placed)] = self.seen[:, self.placed]
            self.accumulators = Accumulators(len(self.state), self.width, valued)
        return self.accumulators

    def _open(self, rows: Integers, columns: Integers, state: NDArray[np.uint8], now_ns: int) -> None:
        new = state == NONE
        if not new.any():
            return
        i, j = np.nonzero(new)
        new_rows, new_columns = rows[i], columns[j]
        self.state[new_rows, new_columns] = OPEN
        self.opened_ns[new_rows, new_columns] = now_ns
        reporters = (self.member_from[:, columns] != NEVER).sum(axis=0)
        self.missing[new_rows, new_columns] = reporters[j]
        if (self.joined_at[columns].max(initial=0)) > self.serial[rows].min():
            self.recount(np.unique(new_rows), np.unique(new_columns))
        for row, column in self._first_cells(rows, columns, new):
            self.first_row[column] = row

    def _first_cells(self, rows: Integers, columns: Integers, new: Bits) -> list[tuple[int, int]]:
        unlearned = np.flatnonzero(~self.learned[columns] & (self.first_row[columns] == UNLEARNED))
        return [(int(rows[new[:, c].argmax()]), int(columns[c])) for c in unlearned if new[:, c].any()]

    # ---- membership ------------------------------------------------------------------------------

    def recount(self, rows: Integers, columns: Integers) -> None:
        """Count again, for these rows and metrics, the reporters that have not reported."""
        if not len(rows) or not len(columns):
            return
        waited = self.member_from[:, columns][None] <= self.serial[rows][:, None, None]
        reported = self.seen[rows][:, :, columns]
        self.missing[rows[:, None], columns] = (waited & ~reported).sum(axis=1)

    def join(self, slot: int, columns: Integers, serial: int) -> None:
        """Wait for this rank's values of ``columns`` in rows from ``serial`` on."""
        self.member_from[slot, columns] = serial
        self.joined_at[columns] = np.maximum(self.joined_at[columns], serial)
        rows = self.live_rows()
        self.missing[rows[:, None], columns] += self._owed(slot, rows, columns)

    def leave(self, slot: int, columns: Integers) -> None:
        """Stop waiting for this rank's values of ``columns``."""
        rows = self.live_rows()
        self.missing[rows[:, None], columns] -= self._owed(slot, rows, columns)
        self.member_from[slot, columns] = NEVER

    def _owed(self, slot: int, rows: Integers, columns: Integers) -> Bits:
        waited = self.member_from[slot, columns] <= self.serial[rows][:, None]
        owed: Bits = waited & ~self.seen[rows[:, None], slot, columns]
        return owed

    def learn(self, column: int, slots: Integers, waited: Bits) -> None:
        """Fix the reporters of a metric: the ranks in ``slots``. Cells wait for those of ``waited``."""
        self.learned[column] = True
        self.first_row[column] = UNLEARNED
        self.member_from[:, column] = NEVER
        self.member_from[slots[waited], column] = 0
        self.ever_member[slots, column] = True

    def note_reporter(self, slot: int, columns: Integers) -> None:
        """Note that this rank has reported these learned metrics; those of several ranks have aggregates."""
        self.ever_member[slot, columns] = True
        self.note_several(columns)

    def note_several(self, columns: Integers) -> None:
        """Aggregate metrics that several ranks have reported, unless their names are those of aggregates."""
        several = self.ever_member[:, columns].sum(axis=0) > 1
        self.aggregated[columns] = several & self.aggregable[columns]

    def complete_rows(self, rows: Integers) -> None:
        """Close the cells of ``rows`` that wait for no rank."""
        closing = (self.state[rows] == OPEN) & (self.missing[rows] <= 0) & self.learned
        state = self.state[rows]
        state[closing] = CLOSED
        self.state[rows] = state

    def is_open(self, row: int) -> bool:
        """Return True if the row has a cell that still waits."""
        return bool((self.state[row] == OPEN).any())

    def open_points(self) -> int:
        """Return the number of values in cells that are not emitted."""
        rows = self.live_rows()
        unemitted = (self.state[rows] == OPEN) | (self.state[rows] == CLOSED)
        return int((self.seen[rows] & unemitted[:, None, :]).sum())
