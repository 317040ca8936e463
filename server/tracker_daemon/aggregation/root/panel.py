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

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.numbers.accumulator import Accumulators, with_room
from tracker_daemon.aggregation.numbers.summary import Floats, Integers
from tracker_daemon.aggregation.root.reports import SummaryReport
from tracker_daemon.aggregation.shared.attempt import RankReport
from tracker_daemon.aggregation.shared.marks import ClosedMarks, Key
from tracker_daemon.aggregation.shared.panel import Bits, Panel
from tracker_daemon.aggregation.shared.placement import Index, cells_at, index_of, numbers_of
from tracker_daemon.aggregation.values.batch import Kinds
from tracker_daemon.aggregation.values.contribution import NO_STEP
from tracker_daemon.rules.metric_names import SUFFIXES
from tracker_protocol.kinds import Kind

NONE, OPEN, CLOSED, EMITTED = 0, 1, 2, 3
NEVER = np.iinfo(np.int64).max
NO_OWNER = -1
UNLEARNED = -1
PRIMARY, SOLE, OTHER = -2, -1, 1 << 30


Homes = int | Integers
"""The code of a rank's rows as homes; by column, if the rank is the sole reporter of some metrics."""


def _all(state: NDArray[np.uint8], value: int) -> bool:
    """Return True if every state is ``value``; this is much faster than an operation of numpy."""
    return state.tobytes() == bytes((value,)) * state.size


@dataclass(slots=True, eq=False)
class _Derived:
    """By metric, the number of its ``reporters``, and of its reporters at any time.

    ``last_join`` is the latest serial from which a reporter counts. ``awaited_from`` has, by slot, the serial
    from which rows wait for all metrics of the rank.
    """

    reporters: Integers
    ever_members: Integers
    last_join: int
    all_learned: bool
    awaited_from: dict[int, int] = field(default_factory=dict)


class RootPanel(Panel):
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
        self.last_pass = NO_STEP  # the highest of ``passed_to``
        self._derived: _Derived | None = None

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
        held = 0 if self.accumulators is None else self.accumulators.nbytes
        return super().array_bytes() + held + (0 if self.kinds is None else self.kinds.nbytes)

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

    def _oldest_serial(self) -> int:
        """Return the lowest serial of the rows in use; there is one."""
        return int(self.serial[next(iter(self.row_of.values()))])

    def release(self, rows: Index) -> None:
        """Free those of ``rows`` whose reported cells are all emitted, and mark these."""
        if not self.row_of:
            return
        if not _all(self.state[rows], EMITTED):
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

    # ---- contributions ---------------------------------------------------------------------------

    def contribute(self, slot: int, rows: Index, report: RankReport, home: Homes, now_ns: int) -> Bits | None:
        """Write a rank's report into ``rows``; each of these cells is new to this rank.

        ``home`` is the code of the rank's own rows as homes, or one code by column of the report. A closed
        cell takes nothing: return these late (row, column) pairs as a mask, or None if there are none.
        """
        state = self.state[cells_at(rows, report.index)]
        if _all(state, OPEN) or not (late := state >= CLOSED).any():
            self._write(slot, rows, report, home, state, now_ns)
            return None
        numbers = numbers_of(rows)
        for i in np.flatnonzero(~late.all(axis=1)).tolist():
            row, taken = np.array([i]), np.flatnonzero(~late[i])
            homes = home if isinstance(home, int) else home[taken]
            some = report.rows(row, taken)
            self._write(slot, numbers[row], some, homes, state[row[:, None], taken], now_ns)
        return late

    def _write(
        self,
        slot: int,
        rows: Index,
        report: RankReport,
        home: Homes,
        state: NDArray[np.uint8],
        now_ns: int,
    ) -> None:
        columns = report.index
        at = rows_at, columns_at = cells_at(rows, columns)
        if _all(state, NONE):
            self._open(rows, columns, state, report, home, now_ns)
        else:
            if not _all(state, OPEN):
                self._open(rows, columns, state, report, home, now_ns)
            if (home if isinstance(home, int) else int(home.min())) < OTHER:
                self._improve_homes(at, report, home)
        own = rows_at, self.place(slot), columns_at
        self.values[own] = report.values
        if report.kinds is not None and self.kinds is None:
            self.kinds = np.zeros(self.values.shape, np.uint8)
        if self.kinds is not None:
            self.kinds[own] = Kind.FLOAT if report.kinds is None else report.kinds
        if self.accumulators is not None:
            self.accumulators.valued[own] = True
        self.seen[rows_at, slot, columns_at] = True
        self.skips[slot, columns] = 0
        if report.rising:
            self.reported_to[slot, columns] = report.highest_step()
        else:
            before = self.reported_to[slot, columns]
            self.reported_to[slot, columns] = np.maximum(before, report.highest_step())
        self._count_reported(slot, at, report.lowest_step())

    def _count_reported(self, slot: int, at: tuple[Index, Index], lowest_step: int) -> None:
        """Wait no more for the rank's values of cells ``at`` rows and columns."""
        rows, columns = at
        # A bar is at least the step, so most reports need no look at the bars.
        passed = int(self.passed_to[slot]) > lowest_step
        if not passed and self.awaited_from(slot, columns) <= self._oldest_serial():
            self.missing[at] -= 1
            return
        serials = self.serial[rows] if isinstance(rows, slice) else self.serial[rows.ravel()]
        awaited = self.member_from[slot, columns] <= serials[:, None]
        if passed:
            awaited &= self.passed_to[slot] <= self.bar[at]
        self.missing[at] -= awaited

    def _improve_homes(self, at: tuple[Index, Index], report: RankReport, home: Homes) -> None:
        """Make the rank's rows the homes of the cells that have a worse home."""
        better: Bits = home < self.home[at]
        if better.any():
            self.home[at] = np.where(better, home, self.home[at])
            self.home_row[at] = np.where(better, report.numbers[:, None], self.home_row[at])

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
        if not _all(state, OPEN):
            self._open(rows, columns, state, cells.report(cells.ranks[0]), OTHER + cells.ranks[0], now_ns)
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
        self,
        rows: Index,
        columns: Index,
        state: NDArray[np.uint8],
        report: RankReport,
        home: Homes,
        now_ns: int,
    ) -> None:
        """Open those cells of which ``state``, (rows, columns), says that they are new."""
        if _all(state, NONE):
            new: Bits = np.ones(state.shape, np.bool_)
            self._open_all(cells_at(rows, columns), report, home, now_ns)
        else:
            new = state == NONE
            chosen = np.flatnonzero(new.any(axis=1))
            if not len(chosen):
                return
            rows, new = index_of(numbers_of(rows)[chosen].tolist()), new[chosen]
            report = report.rows(chosen, np.arange(len(report.columns)))
            if new.all():
                self._open_all(cells_at(rows, columns), report, home, now_ns)
            else:
                self._open_some(numbers_of(rows), numbers_of(columns), new, report, home, now_ns)
        joined_later = self.derived().last_join > int(self.serial[rows].min())
        if joined_later or self.last_pass > int(report.bars.min()):
            self.recount(numbers_of(rows), numbers_of(columns)[new.any(axis=0)])
        if not self.derived().all_learned:
            for row, column in self._first_cells(numbers_of(rows), numbers_of(columns), new):
                self.first_row[column] = row

    def _open_all(self, at: tuple[Index, Index], report: RankReport, home: Homes, now_ns: int) -> None:
        self.state[at] = OPEN
        self.opened_ns[at] = now_ns
        self.bar[at] = report.bars[:, None]
        self.missing[at] = self.derived().reporters[at[1]]
        self.home[at] = home
        self.home_row[at] = report.numbers[:, None]

    def _open_some(
        self, rows: Integers, columns: Integers, new: Bits, report: RankReport, home: Homes, now_ns: int
    ) -> None:
        i, j = np.nonzero(new)
        cells = rows[i], columns[j]
        self.state[cells] = OPEN
        self.opened_ns[cells] = now_ns
        self.bar[cells] = report.bars[i]
        self.missing[cells] = self.derived().reporters[columns[j]]
        self.home[cells] = home if isinstance(home, int) else home[j]
        self.home_row[cells] = report.numbers[i]

    def _first_cells(self, rows: Integers, columns: Integers, new: Bits) -> list[tuple[int, int]]:
        unlearned = np.flatnonzero(~self.learned[columns] & (self.first_row[columns] == UNLEARNED))
        return [(int(rows[new[:, c].argmax()]), int(columns[c])) for c in unlearned if new[:, c].any()]

    def has_reported(self, slot: int, column: int) -> bool:
        """Return True if the rank in this slot has reported the metric."""
        return int(self.reported_to[slot, column]) != NO_STEP

    # ---- membership ------------------------------------------------------------------------------

    def derived(self) -> _Derived:
        """Return what follows from the reporters; it is the same until they change."""
        if self._derived is None:
            reporters, ever = (self.member_from != NEVER).sum(axis=0), self.ever_member.sum(axis=0)
            last_join = int(self.joined_at.max(initial=0))
            self._derived = _Derived(reporters, ever, last_join, bool(self.learned.all()))
        return self._derived

    def awaited_from(self, slot: int, columns: Index) -> int:
        """Return the serial from which rows wait for all these metrics of the rank; NEVER for one of none."""
        if not isinstance(columns, slice) or columns.stop - columns.start < self.width:
            return int(self.member_from[slot, columns].max())
        known = self.derived().awaited_from
        serial = known.get(slot)
        if serial is None:
            serial = known[slot] = int(self.member_from[slot].max())
        return serial

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
        self._derived = None
        self.member_from[slot, columns] = serial
        self.joined_at[columns] = np.maximum(self.joined_at[columns], serial)
        rows = self.live_rows()
        self.missing[rows[:, None], columns] += self._owed(slot, rows, columns)

    def leave(self, slot: int, columns: Integers) -> None:
        """Stop waiting for this rank's values of ``columns``."""
        rows = self.live_rows()
        self.missing[rows[:, None], columns] -= self._owed(slot, rows, columns)
        self.member_from[slot, columns] = NEVER
        self._derived = None

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
        self.last_pass = max(self.last_pass, int(highs.max(initial=NO_STEP)))
        before = self.passed_to[slots]
        self.passed_to[slots] = np.maximum(before, highs)
        rows: Integers = self.live_rows()
        if len(rows):
            rows = rows[((self.missing[rows] > 0) & (self.state[rows] == OPEN)).any(axis=1)]
        if not len(rows):
            return rows
        rows, ranks = self._unreported(rows, slots, before, highs)
        at = slots[ranks]
        bars = self.bar[rows]
        passed = (self.state[rows] == OPEN) & ~self.seen[rows, at]
        passed &= self.member_from[at] <= self.serial[rows][:, None]
        passed &= (before[ranks][:, None] <= bars) & (bars < highs[ranks][:, None])
        if not passed.any():
            return rows[:0]
        np.subtract.at(self.missing, rows, passed.astype(np.int32))
        # A rank that repeats a metric less often than others at a step goes on reporting it.
        skipped = passed & (self.occurrence[rows] == 0)[:, None]
        skipped &= self.step[rows][:, None] > self.reported_to[at]
        np.add.at(self.skips, at, skipped.astype(np.int64))
        lagging = slots[(self.skips[slots] >= lagging_after).any(axis=1)].tolist()
        for slot in lagging:
            gone = np.flatnonzero((self.skips[slot] >= lagging_after) & (self.member_from[slot] != NEVER))
            self.leave(slot, gone)
        return self.live_rows() if lagging else np.unique(rows)

    def _unreported(
        self, rows: Integers, slots: Integers, before: Integers, highs: Integers
    ) -> tuple[Integers, Integers]:
        """Return pairs of one of ``rows`` and the index of a slot that may have passed a cell there.

        The highest steps of the slots' ranks have risen from ``before`` to ``highs``.
        """
        waiting, bars = self.state[rows] == OPEN, self.bar[rows]
        lowest = np.where(waiting, bars, NEVER).min(axis=1, initial=NEVER)
        highest = np.where(waiting, bars, NO_STEP).max(axis=1, initial=NO_STEP)
        i, j = np.nonzero((lowest[:, None] < highs) & (before <= highest[:, None]))
        lacking = ~self.seen[rows[i], slots[j]].all(axis=1)
        return rows[i[lacking]], j[lacking]

    def learn(self, column: int, slots: Integers, waited: Bits) -> None:
        """Fix the reporters of a metric: the ranks in ``slots``. Cells wait for those of ``waited``."""
        self._derived = None
        self.learned[column] = True
        self.first_row[column] = UNLEARNED
        self.member_from[:, column] = NEVER
        self.member_from[slots[waited], column] = 0
        self.ever_member[slots, column] = True

    def note_reporter(self, slot: int, columns: Integers) -> None:
        """Note that this rank has reported these learned metrics; those of several ranks have aggregates."""
        self._derived = None
        self.ever_member[slot, columns] = True
        self.note_several(columns)

    def note_several(self, columns: Integers) -> None:
        """Aggregate metrics that several ranks have reported."""
        self.aggregated[columns] = self.ever_member[:, columns].sum(axis=0) > 1

    def take_touched(self) -> Index:
        """Return the rows that were touched since the last call."""
        rows = self.touched.nonzero()[0]
        self.touched[:] = False
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
            return slice(int(rows[0]), int(rows[-1]) + 1)
        return rows

    def complete_rows(self, rows: Index) -> None:
        """Close the cells of ``rows`` that wait for no rank."""
        state = self.state[rows]
        closing: Bits = (state == OPEN) & (self.missing[rows] <= 0)
        if not self.derived().all_learned:
            closing &= self.learned
        self.set_state(rows, closing, CLOSED)

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
