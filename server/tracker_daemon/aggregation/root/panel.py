"""A panel: the open rows of metrics that were first logged together, dense by rank.

The metrics of an attempt are split into panels: when a rank logs a set of metrics, those not seen
before form a new panel and stay in it. So the usual case, in which all ranks log the same
metrics in one call, is one array of shape (rows, slots, metrics), and a whole block of a rank is
written by one numpy assignment. A *slot* is a rank's place in the panel; only ranks that report
one of its metrics have one. A *row* is a (step, occurrence) with open or unemitted cells.

A rank below a node's daemon mostly comes in a summary over several (:mod:`accumulator`): then its slot tells
that it has reported, and has no *place* among the values. It gets one with the first value of its own.

A cell goes through NONE → OPEN (a rank reported it) → CLOSED (nobody is waited for any more)
→ EMITTED. Whom a cell waits for is ``member_from``: rank in slot s is a reporter of metric m for
rows whose serial number is at least ``member_from[s, m]``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.numbers.accumulator import Accumulators, with_room
from tracker_daemon.aggregation.numbers.summary import Summary
from tracker_daemon.aggregation.shared.marks import ClosedMarks, Key
from tracker_daemon.aggregation.shared.occurrence import OccurrenceCounter
from tracker_daemon.rules.metric_names import SUFFIXES, aggregate_base

NONE, OPEN, CLOSED, EMITTED = 0, 1, 2, 3
NEVER = np.iinfo(np.int64).max
NO_OWNER = -1
UNLEARNED = -1
NO_PLACE = -1
Index = NDArray[np.int64]
_ROWS_AT_FIRST = 8
_IDLE_BYTES_MAX = 32 * 1024 * 1024
"""Room that an empty panel keeps, so that steady bursts do not allocate it each time."""


class Panel:
    """The cells of ``names``, for one attempt."""

    def __init__(self, names: tuple[str, ...]) -> None:
        width = len(names)
        self.names = names
        self.ranks: list[int] = []
        self.slot_of: dict[int, int] = {}
        self.places: list[int] = []  # of each slot, NO_PLACE where it has none
        self.placed: list[int] = []  # the slot at each place
        self._order = (np.empty(0, np.int64), np.empty(0, np.int64))
        self.occurrences = OccurrenceCounter(0, width)
        self.marks = ClosedMarks(width)
        # Per slot and metric.
        self.member_from: NDArray[np.int64] = np.empty((0, width), np.int64)
        self.ever_member: NDArray[np.bool_] = np.empty((0, width), np.bool_)
        # Per metric.
        self.aggregable = np.array([aggregate_base(name) is None for name in names], np.bool_)
        self.wanted = np.ones((width, len(SUFFIXES)), np.bool_)  # which aggregates are recorded, by the rules
        self.learned = np.zeros(width, np.bool_)
        self.aggregated = np.zeros(width, np.bool_)
        self.owner = np.full(width, NO_OWNER, np.int64)
        self.first_row = np.full(width, UNLEARNED, np.int64)
        self.joined_at = np.zeros(width, np.int64)  # the latest serial from which a reporter counts
        # Per row.
        self.row_of: dict[Key, int] = {}
        self._allocate(_ROWS_AT_FIRST, 0)

    # ---- storage ---------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """How many metrics there are."""
        return len(self.names)

    def _allocate(self, capacity: int, places: int) -> None:
        slots = len(self.member_from)
        self.values = np.zeros((capacity, places, self.width))
        self.accumulators: Accumulators | None = None  # from the first summary on
        self.seen = np.zeros((capacity, slots, self.width), np.bool_)
        self.state = np.zeros((capacity, self.width), np.uint8)
        self.missing = np.zeros((capacity, self.width), np.int32)
        self.opened_ns = np.zeros((capacity, self.width), np.int64)
        self.step = np.zeros(capacity, np.int64)
        self.occurrence = np.zeros(capacity, np.int64)
        self.serial = np.zeros(capacity, np.int64)
        self.time_ns = np.zeros(capacity, np.int64)
        self.free = list(range(capacity - 1, -1, -1))

    _ROW_ARRAYS = (
        "values", "seen", "state", "missing", "opened_ns", "step", "occurrence", "serial", "time_ns",
    )  # fmt: skip

    def grow_rows(self) -> None:
        """Double the room for rows."""
        old = {name: getattr(self, name) for name in self._ROW_ARRAYS}
        capacity, accumulators = len(self.state), self.accumulators
        self._allocate(2 * capacity, self.values.shape[1])
        for name, array in old.items():
            getattr(self, name)[:capacity] = array
        if accumulators is not None:
            accumulators.grow(2 * capacity)
            self.accumulators = accumulators
        self.free = list(range(2 * capacity - 1, capacity - 1, -1))

    def slot(self, rank: int) -> int:
        """The rank's slot, made if it has none."""
        slot = self.slot_of.get(rank)
        if slot is None:
            slot = self.slot_of[rank] = len(self.ranks)
            self.ranks.append(rank)
            self.places.append(NO_PLACE)
            if slot >= len(self.member_from):
                self._grow_slots(max(4, 2 * slot))
        return slot

    def _grow_slots(self, slots: int) -> None:
        had = len(self.member_from)
        member_from = np.full((slots, self.width), NEVER, np.int64)
        member_from[:had] = self.member_from
        ever_member = np.zeros((slots, self.width), np.bool_)
        ever_member[:had] = self.ever_member
        self.member_from, self.ever_member = member_from, ever_member
        self.occurrences.grow(slots)
        self.seen = with_room(self.seen, slots)

    def make_place(self, slot: int) -> int:
        """Give a slot that has none a place among the values."""
        place = self.places[slot] = len(self.placed)
        self.placed.append(slot)
        if place >= self.values.shape[1]:
            self.values = with_room(self.values, max(4, 2 * place))
            if self.accumulators is not None:
                self.accumulators.valued = with_room(self.accumulators.valued, max(4, 2 * place))
        return place

    def rank_order(self) -> tuple[Index, Index]:
        """The places in ascending order of their ranks, and the slots that have them."""
        if len(self._order[0]) != len(self.placed):
            placed = np.array(self.placed, np.int64)
            order = np.argsort(np.array(self.ranks, np.int64)[placed], kind="stable")
            self._order = order, placed[order]
        return self._order

    def own_values(self, rows: Index) -> tuple[Index, NDArray[np.float64], NDArray[np.bool_]]:
        """The slots that have places, by rank, and so their values in ``rows``, and which there are."""
        places, slots = self.rank_order()
        values = self.values[rows[:, None], places]
        if self.accumulators is None:
            return slots, values, self.seen[rows[:, None], slots]
        return slots, values, self.accumulators.valued[rows[:, None], places]

    def _forget_places(self) -> None:
        self.placed = []
        self.places = [NO_PLACE] * len(self.ranks)
        self._order = (np.empty(0, np.int64), np.empty(0, np.int64))

    def live_rows(self) -> Index:
        """All rows in use."""
        return np.fromiter(self.row_of.values(), np.int64, len(self.row_of))

    def live_bytes(self) -> int:
        """Memory that the rows in use hold."""
        per_row = self.values.nbytes + self.seen.nbytes
        if self.accumulators is not None:
            per_row += self.accumulators.nbytes
        return len(self.row_of) * per_row // max(1, len(self.state))

    # ---- rows ------------------------------------------------------------------------------------

    def take_row(self, key: Key, serial: int, time_ns: int) -> int:
        """Start a row for ``key``; metrics already emitted there stay EMITTED."""
        if not self.free:
            self.grow_rows()
        row = self.free.pop()
        self.row_of[key] = row
        self.step[row], self.occurrence[row] = key
        self.serial[row] = serial
        self.time_ns[row] = time_ns
        closed = self.marks.closed(key)
        if closed is not None:
            self.state[row, closed] = EMITTED
        return row

    def release(self, keys: list[Key], rows: Index) -> None:
        """Mark what was emitted in ``rows`` and free them."""
        self.marks.add(keys, self.state[rows] == EMITTED)
        for key in keys:
            del self.row_of[key]
        self.free.extend(rows.tolist())
        if not self.row_of and self.values.nbytes > _IDLE_BYTES_MAX:
            if len(self.placed) < len(self.ranks):
                self._forget_places()  # what came for once need not keep room
            self._allocate(_ROWS_AT_FIRST, self.values.shape[1] if self.placed else 0)
            return
        self.seen[rows] = False
        if self.accumulators is not None:
            self.accumulators.clear(rows)
        self.state[rows] = NONE

    # ---- contributions ---------------------------------------------------------------------------

    def contribute(
        self, slot: int, rows: Index, columns: Index, values: NDArray[np.float64], now_ns: int
    ) -> NDArray[np.bool_] | None:
        """Write a rank's ``values`` (rows × columns); each of these cells is new to this rank.

        A cell that is closed takes nothing; which (row, column) pairs were late so is returned, None if none.
        """
        state = self.state[rows[:, None], columns]
        late: NDArray[np.bool_] = state >= CLOSED
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
        rows: Index,
        columns: Index,
        values: NDArray[np.float64],
        state: NDArray[np.uint8],
        now_ns: int,
    ) -> None:
        self._open(rows, columns, state, now_ns)
        place = self.places[slot]
        if place == NO_PLACE:
            place = self.make_place(slot)
        self.values[rows[:, None], place, columns] = values
        if self.accumulators is not None:
            self.accumulators.valued[rows[:, None], place, columns] = True
        self.seen[rows[:, None], slot, columns] = True
        awaited = self.member_from[slot, columns] <= self.serial[rows][:, None]
        self.missing[rows[:, None], columns] -= awaited

    def summarised(
        self, slots: Index, rows: Index, columns: Index, summary: Summary, now_ns: int
    ) -> NDArray[np.bool_] | None:
        """Take in the ``summary`` (rows × columns) of several ranks, like :meth:`contribute` their values."""
        state = self.state[rows[:, None], columns]
        late: NDArray[np.bool_] = state >= CLOSED
        if not late.any():
            self._accumulate(slots, rows, columns, summary, state, now_ns)
            return None
        for i in np.flatnonzero(~late.all(axis=1)).tolist():
            row, taken = slice(i, i + 1), np.flatnonzero(~late[i])
            self._accumulate(slots, rows[row], columns[taken], summary[row, taken], state[row, taken], now_ns)
        return late

    def _accumulate(
        self,
        slots: Index,
        rows: Index,
        columns: Index,
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
        """The summaries of the cells; until the first there are none, and all values are the ranks' own."""
        if self.accumulators is None:
            valued = np.zeros(self.values.shape, np.bool_)
            valued[:, : len(self.placed)] = self.seen[:, self.placed]
            self.accumulators = Accumulators(len(self.state), self.width, valued)
        return self.accumulators

    def _open(self, rows: Index, columns: Index, state: NDArray[np.uint8], now_ns: int) -> None:
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

    def _first_cells(self, rows: Index, columns: Index, new: NDArray[np.bool_]) -> list[tuple[int, int]]:
        unlearned = np.flatnonzero(~self.learned[columns] & (self.first_row[columns] == UNLEARNED))
        return [(int(rows[new[:, c].argmax()]), int(columns[c])) for c in unlearned if new[:, c].any()]

    # ---- membership ------------------------------------------------------------------------------

    def recount(self, rows: Index, columns: Index) -> None:
        """Count anew, for these rows and metrics, the reporters that have not reported."""
        if not len(rows) or not len(columns):
            return
        waited = self.member_from[:, columns][None] <= self.serial[rows][:, None, None]
        reported = self.seen[rows][:, :, columns]
        self.missing[rows[:, None], columns] = (waited & ~reported).sum(axis=1)

    def join(self, slot: int, columns: Index, serial: int) -> None:
        """From rows of ``serial`` on, wait for this rank's values of ``columns``."""
        self.member_from[slot, columns] = serial
        self.joined_at[columns] = np.maximum(self.joined_at[columns], serial)
        rows = self.live_rows()
        self.missing[rows[:, None], columns] += self._owed(slot, rows, columns)

    def leave(self, slot: int, columns: Index) -> None:
        """Wait no longer for this rank's values of ``columns``."""
        rows = self.live_rows()
        self.missing[rows[:, None], columns] -= self._owed(slot, rows, columns)
        self.member_from[slot, columns] = NEVER

    def _owed(self, slot: int, rows: Index, columns: Index) -> NDArray[np.bool_]:
        waited = self.member_from[slot, columns] <= self.serial[rows][:, None]
        owed: NDArray[np.bool_] = waited & ~self.seen[rows[:, None], slot, columns]
        return owed

    def learn(self, column: int, slots: Index, waited: NDArray[np.bool_]) -> None:
        """Fix the reporters of a metric: the ranks in ``slots``, of which ``waited`` are waited for."""
        self.learned[column] = True
        self.first_row[column] = UNLEARNED
        self.member_from[:, column] = NEVER
        self.member_from[slots[waited], column] = 0
        self.ever_member[slots, column] = True

    def note_reporter(self, slot: int, columns: Index) -> None:
        """This rank has reported these learned metrics; those of several ranks have aggregates."""
        self.ever_member[slot, columns] = True
        self.note_several(columns)

    def note_several(self, columns: Index) -> None:
        """Metrics that several ranks have reported are aggregated, unless they are aggregates by name."""
        several = self.ever_member[:, columns].sum(axis=0) > 1
        self.aggregated[columns] = several & self.aggregable[columns]

    def complete_rows(self, rows: Index) -> None:
        """Close the cells of ``rows`` that wait for nobody."""
        closing = (self.state[rows] == OPEN) & (self.missing[rows] <= 0) & self.learned
        state = self.state[rows]
        state[closing] = CLOSED
        self.state[rows] = state

    def is_open(self, row: int) -> bool:
        """Whether the row has a cell that still waits."""
        return bool((self.state[row] == OPEN).any())

    def open_points(self) -> int:
        """How many values lie in cells that are not emitted."""
        rows = self.live_rows()
        unemitted = (self.state[rows] == OPEN) | (self.state[rows] == CLOSED)
        return int((self.seen[rows] & unemitted[:, None, :]).sum())
