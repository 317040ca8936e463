"""The panel of a daemon that records: the open cells, and the ranks that each cell waits for.

A node mostly sends a summary over several of its ranks (:mod:`accumulator`). The slot of such a rank then
shows that the rank has reported, but the rank has no *place* among the values. It gets a place with the first
value of its own.

A cell goes through NONE → OPEN (a rank reported it) → CLOSED (it waits for no rank any more) → EMITTED. A row
of a panel has open or unemitted cells. A cell waits for the ranks of ``member_from``: the rank in slot s is a
reporter of metric m for rows whose serial number is at least ``member_from[s, m]``. It does not wait for a
rank that has *passed* it: the rank's highest step is above the cell's *bar*, which is the highest step that
the cell's first reporter had logged when it reported. ``passed_to`` has the highest step of each slot, as far
as ``missing`` has counted it.

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
from tracker_daemon.aggregation.root.reports import SummaryReport
from tracker_daemon.aggregation.shared.attempt import NO_ROW, RankReport
from tracker_daemon.aggregation.shared.marks import ClosedMarks, Key
from tracker_daemon.aggregation.shared.panel import Bits, Panel
from tracker_daemon.aggregation.values.batch import Kinds
from tracker_daemon.aggregation.values.contribution import NO_STEP
from tracker_daemon.rules.metric_names import SUFFIXES
from tracker_protocol.kinds import Kind

NONE, OPEN, CLOSED, EMITTED = 0, 1, 2, 3
NEVER = np.iinfo(np.int64).max
NO_OWNER = -1
UNLEARNED = -1
PRIMARY, SOLE, OTHER = -2, -1, 1 << 30


class RootPanel(Panel):
    """The cells of ``names``, for one attempt. ``values`` is (rows, places, metrics)."""

    ROW_ARRAYS: ClassVar[tuple[str, ...]] = (
        *Panel.ROW_ARRAYS, "state", "missing", "opened_ns", "bar", "home", "home_row", "own_out", "serial",
    )  # fmt: skip
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
        self.skips: Integers = np.empty((0, width), np.int64)  # cells passed since the last report
        self.reported_to: Integers = np.empty((0, width), np.int64)  # the highest step reported
        self.passed_to: Integers = np.empty(0, np.int64)  # per slot
        # Per metric.
        self.shown: list[str | None] = [None] * width  # the recorded name, fixed at the first emission
        self.layouts: dict[tuple[bytes, tuple[int, ...]], tuple[str, ...]] = {}  # a cache
        self.kept_names = 0  # the number of the script's names that ``wanted`` gives way to
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
        self.bar = np.zeros((capacity, self.width), np.int64)
        self.home = np.zeros((capacity, self.width), np.int64)
        self.home_row = np.zeros((capacity, self.width), np.int64)
        self.own_out = np.zeros((capacity, self.width), np.bool_)  # own value emitted before the cell closed
        self.serial = np.zeros(capacity, np.int64)
        self.kinds: Kinds | None = None  # as values, from the first value on that is no float

    def grow_rows(self) -> None:
        """Double the room for rows."""
        accumulators, kinds = self.accumulators, self.kinds
        super().grow_rows()
        if kinds is not None:
            self.kinds = np.zeros(self.values.shape, np.uint8)
            self.kinds[: len(kinds)] = kinds
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
        skips = np.zeros((slots, self.width), np.int64)
        skips[:had] = self.skips
        passed_to = np.full(slots, NO_STEP, np.int64)
        passed_to[:had] = self.passed_to
        reported_to = np.full((slots, self.width), NO_STEP, np.int64)
        reported_to[:had] = self.reported_to
        self.member_from, self.ever_member, self.skips = member_from, ever_member, skips
        self.reported_to = reported_to
        self.passed_to = passed_to

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
        if self.kinds is not None:
            self.kinds = with_room(self.kinds, places)
        if self.accumulators is not None:
            self.accumulators.valued = with_room(self.accumulators.valued, places)

    def rank_order(self) -> tuple[Integers, Integers]:
        """Return the places in ascending order of their ranks, and the slots that have them."""
        if len(self._order[0]) != len(self.placed):
            placed = np.array(self.placed, np.int64)
            order = np.argsort(np.array(self.ranks, np.int64)[placed], kind="stable")
            self._order = order, placed[order]
        return self._order

    def own_values(self, rows: Integers) -> tuple[Integers, Floats, Bits, Kinds | None]:
        """Return the slots that have places, by rank; their values in ``rows``, which exist, their kinds."""
        places, slots = self.rank_order()
        values = self.values[rows[:, None], places]
        kinds = None if self.kinds is None else self.kinds[rows[:, None], places]
        if self.accumulators is None:
            return slots, values, self.seen[rows[:, None], slots], kinds
        return slots, values, self.accumulators.valued[rows[:, None], places], kinds

    def array_bytes(self) -> int:
        """Return the memory of the large arrays, for all rows."""
        held = 0 if self.accumulators is None else self.accumulators.nbytes
        return super().array_bytes() + held + (0 if self.kinds is None else self.kinds.nbytes)

    # ---- rows ------------------------------------------------------------------------------------

    def open_row(self, key: Key, serial: int, time_ns: int) -> int:
        """Start a row for ``key``; metrics already emitted there stay EMITTED."""
        row = self.take_row(key, time_ns)
        self.serial[row] = serial
        closed = self.marks.closed(key)
        if closed is not None:
            self.state[row, closed] = EMITTED
        return row

    def release(self, rows: Integers) -> None:
        """Free those of ``rows`` whose reported cells are all emitted, and mark these."""
        rows = rows[rows < len(self.state)]
        state = self.state[rows]
        done = rows[~((state == OPEN) | (state == CLOSED)).any(axis=1) & self.in_use[rows]]
        if len(done):
            # The indices of rows may differ after a replay; the order of marks decides which are forgotten.
            done = done[np.argsort(self.serial[done])]
            self.marks.add(self.keys_at(done), self.state[done] == EMITTED)
            self.free_rows(done)

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
        self.own_out[rows] = False

    # ---- contributions ---------------------------------------------------------------------------

    def contribute(
        self, slot: int, rows: Integers, report: RankReport, homes: Integers, now_ns: int
    ) -> Bits | None:
        """Write a rank's report into ``rows``; each of these cells is new to this rank.

        ``homes`` are the codes of the rank's own rows as homes, by column of the report. A closed cell takes
        nothing: return these late (row, column) pairs as a mask, or None if there are none.
        """
        state = self.state[rows[:, None], report.columns]
        late: Bits = state >= CLOSED
        if not late.any():
            self._write(slot, rows, report, homes, state, now_ns)
            return None
        for i in np.flatnonzero(~late.all(axis=1)).tolist():
            row, taken = np.array([i]), np.flatnonzero(~late[i])
            some = report.rows(row, taken)
            self._write(slot, rows[row], some, homes[taken], state[row[:, None], taken], now_ns)
        return late

    def _write(
        self,
        slot: int,
        rows: Integers,
        report: RankReport,
        homes: Integers,
        state: NDArray[np.uint8],
        now_ns: int,
    ) -> None:
        columns = report.columns
        self._open(rows, columns, state, report.bars, now_ns)
        self._settle_homes(rows, report, homes, state == NONE)
        place = self.place(slot)
        at = rows[:, None], place, columns
        self.values[at] = report.values
        if report.kinds is not None and self.kinds is None:
            self.kinds = np.zeros(self.values.shape, np.uint8)
        if self.kinds is not None:
            self.kinds[at] = Kind.FLOAT if report.kinds is None else report.kinds
        if self.accumulators is not None:
            self.accumulators.valued[at] = True
        self.seen[rows[:, None], slot, columns] = True
        self.skips[slot, columns] = 0
        highest = np.maximum(self.reported_to[slot, columns], self.step[rows].max())
        self.reported_to[slot, columns] = highest
        awaited = self.member_from[slot, columns] <= self.serial[rows][:, None]
        # A bar is at least the step, so most reports need no look at the bars.
        if self.passed_to[slot] > self.step[rows].min():
            awaited &= self.passed_to[slot] <= self.bar[rows[:, None], columns]
        self.missing[rows[:, None], columns] -= awaited

    def _settle_homes(self, rows: Integers, report: RankReport, homes: Integers, new: Bits) -> None:
        """Make the rank's rows the homes of cells that are ``new`` or had a worse home."""
        if homes[0] >= OTHER and not new.any():
            return
        at = rows[:, None], report.columns
        better = new | (homes < self.home[at])
        if better.all():
            self.home[at] = homes
            self.home_row[at] = report.numbers[:, None]
        elif better.any():
            i, j = np.nonzero(better)
            self.home[rows[i], report.columns[j]] = homes[j]
            self.home_row[rows[i], report.columns[j]] = report.numbers[i]

    def summarised(self, rows: Integers, cells: SummaryReport, now_ns: int) -> Bits | None:
        """Add the summary of several ranks, as :meth:`contribute` writes the values of one."""
        state = self.state[rows[:, None], cells.columns]
        late: Bits = state >= CLOSED
        if not late.any():
            self._accumulate(rows, cells, state, now_ns)
            return None
        for i in np.flatnonzero(~late.all(axis=1)).tolist():
            row, taken = np.array([i]), np.flatnonzero(~late[i])
            self._accumulate(rows[row], cells.part(row, taken), state[row[:, None], taken], now_ns)
        return late

    def _accumulate(
        self, rows: Integers, cells: SummaryReport, state: NDArray[np.uint8], now_ns: int
    ) -> None:
        slots, columns = cells.slots, cells.columns
        self._open(rows, columns, state, cells.bars, now_ns)
        i, j = np.nonzero(state == NONE)
        self.home[rows[i], columns[j]] = OTHER + cells.ranks[0]
        self.home_row[rows[i], columns[j]] = NO_ROW
        self.accumulate().add(rows, columns, cells.summary, cells.fractional)
        self.seen[rows[:, None, None], slots[:, None], columns] = True
        self.skips[slots[:, None], columns] = 0
        highest = np.maximum(self.reported_to[slots[:, None], columns], self.step[rows].max())
        self.reported_to[slots[:, None], columns] = highest
        awaited = self.member_from[slots[:, None], columns] <= self.serial[rows][:, None, None]
        awaited &= self.passed_to[slots][:, None] <= self.bar[rows[:, None], columns][:, None, :]
        self.missing[rows[:, None], columns] -= awaited.sum(axis=1, dtype=np.int32)

    def accumulate(self) -> Accumulators:
        """Return the summaries of the cells; make them at the first. Before it all values are ranks' own."""
        if self.accumulators is None:
            valued = np.zeros(self.values.shape, np.bool_)
            valued[:, : len(self.placed)] = self.seen[:, self.placed]
            self.accumulators = Accumulators(len(self.state), self.width, valued)
        return self.accumulators

    def _open(
        self, rows: Integers, columns: Integers, state: NDArray[np.uint8], bars: Integers, now_ns: int
    ) -> None:
        new = state == NONE
        if not new.any():
            return
        i, j = np.nonzero(new)
        new_rows, new_columns = rows[i], columns[j]
        self.state[new_rows, new_columns] = OPEN
        self.opened_ns[new_rows, new_columns] = now_ns
        self.bar[new_rows, new_columns] = bars[i]
        reporters = (self.member_from[:, columns] != NEVER).sum(axis=0)
        self.missing[new_rows, new_columns] = reporters[j]
        joined_later = self.joined_at[columns].max(initial=0) > self.serial[rows].min()
        if joined_later or self.passed_to.max(initial=NO_STEP) > bars.min():
            self.recount(np.unique(new_rows), np.unique(new_columns))
        for row, column in self._first_cells(rows, columns, new):
            self.first_row[column] = row

    def _first_cells(self, rows: Integers, columns: Integers, new: Bits) -> list[tuple[int, int]]:
        unlearned = np.flatnonzero(~self.learned[columns] & (self.first_row[columns] == UNLEARNED))
        return [(int(rows[new[:, c].argmax()]), int(columns[c])) for c in unlearned if new[:, c].any()]

    def has_reported(self, slot: int, column: int) -> bool:
        """Return True if the rank in this slot has reported the metric."""
        return int(self.reported_to[slot, column]) != NO_STEP

    # ---- membership ------------------------------------------------------------------------------

    def recount(self, rows: Integers, columns: Integers) -> None:
        """Count again, for these rows and metrics, the reporters that have neither reported nor passed."""
        if not len(rows) or not len(columns):
            return
        waited = self.member_from[:, columns][None] <= self.serial[rows][:, None, None]
        waited &= self.passed_to[None, :, None] <= self.bar[rows[:, None], columns][:, None, :]
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
        at = rows[:, None], columns
        waited = self.member_from[slot, columns] <= self.serial[rows][:, None]
        waited &= self.passed_to[slot] <= self.bar[at]
        owed: Bits = waited & ~self.seen[rows[:, None], slot, columns]
        return owed

    def note_passes(self, slots: Integers, highs: Integers, lagging_after: int) -> Integers:
        """Note the highest steps of ``slots``; return the rows of which a slot has passed a cell.

        A reporter that has passed a metric at ``lagging_after`` steps in a row is no reporter any more.
        """
        before = self.passed_to[slots]
        self.passed_to[slots] = np.maximum(before, highs)
        rows: Integers = self.live_rows()
        rows = rows[(self.state[rows] == OPEN).any(axis=1)]
        rows = rows[self.bar[rows].min(axis=1, initial=NEVER) < highs.max(initial=NO_STEP)]
        if not len(rows):
            return rows
        owed = self.member_from[slots][None] <= self.serial[rows][:, None, None]
        owed &= ~self.seen[rows][:, slots]
        owed &= (self.state[rows] == OPEN)[:, None, :]
        bars = self.bar[rows][:, None, :]
        passed = owed & (before[:, None] <= bars) & (bars < highs[:, None])
        if not passed.any():
            return rows[:0]
        self.missing[rows] -= passed.sum(axis=1, dtype=np.int32)
        # A rank that repeats a metric less often than others at a step goes on reporting it.
        skipped = passed & (self.occurrence[rows] == 0)[:, None, None]
        skipped &= self.step[rows][:, None, None] > self.reported_to[slots]
        self.skips[slots] += skipped.sum(axis=0)
        for slot in slots[(self.skips[slots] >= lagging_after).any(axis=1)].tolist():
            gone = np.flatnonzero((self.skips[slot] >= lagging_after) & (self.member_from[slot] != NEVER))
            self.leave(slot, gone)
        return rows

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
        """Aggregate metrics that several ranks have reported."""
        self.aggregated[columns] = self.ever_member[:, columns].sum(axis=0) > 1

    def complete_rows(self, rows: Integers) -> None:
        """Close the cells of ``rows`` that wait for no rank."""
        closing = (self.state[rows] == OPEN) & (self.missing[rows] <= 0) & self.learned
        state = self.state[rows]
        state[closing] = CLOSED
        self.state[rows] = state

    def open_points(self) -> int:
        """Return the number of values in cells that are not emitted."""
        rows = self.live_rows()
        unemitted = (self.state[rows] == OPEN) | (self.state[rows] == CLOSED)
        return int((self.seen[rows] & unemitted[:, None, :]).sum())
