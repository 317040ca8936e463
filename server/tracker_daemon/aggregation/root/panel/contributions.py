"""Writes reports of ranks, and summaries over several ranks, into the cells of a panel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.root.panel.cells import CLOSED, NONE, OPEN, OTHER, all_are
from tracker_daemon.aggregation.root.panel.reporters import UNLEARNED, ReporterPanel
from tracker_daemon.aggregation.root.reports import SummaryReport
from tracker_daemon.aggregation.shared.attempt import RankReport
from tracker_daemon.aggregation.shared.panel import Bits
from tracker_daemon.aggregation.shared.placement import Index, cells_at, index_of, numbers_of

Homes = int | Integers
"""The code of a rank's rows as homes; by column, if the rank is the sole reporter of some metrics."""


class RootPanel(ReporterPanel):
    """The panel of a daemon that records."""

    def contribute(self, slot: int, rows: Index, report: RankReport, home: Homes, now_ns: int) -> Bits | None:
        """Write a rank's report into ``rows``; each of these cells is new to this rank.

        ``home`` is the code of the rank's own rows as homes, or one code by column of the report. A closed
        cell takes nothing: return these late (row, column) pairs as a mask, or None if there are none.
        """
        state = self.state[cells_at(rows, report.index)]
        if all_are(state, OPEN) or not (late := state >= CLOSED).any():
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
        if all_are(state, NONE):
            self._open(rows, columns, state, report, home, now_ns)
        else:
            if not all_are(state, OPEN):
                self._open(rows, columns, state, report, home, now_ns)
            if (home if isinstance(home, int) else int(home.min())) < OTHER:
                self._improve_homes(at, report, home)
        own = rows_at, self.place(slot), columns_at
        assert report.values is not None, "a summary is accumulated, not written"
        self.set_values(own, report.values, report.kinds)
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
        if not passed and self.awaited_from(slot, columns) <= self.oldest_serial():
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
        if not all_are(state, OPEN):
            self._open(rows, columns, state, cells.report(cells.ranks[0]), OTHER + cells.ranks[0], now_ns)
        self.accumulate().add(rows, columns, cells.summary, cells.fractional)
        self.seen[rows[:, None, None], slots[:, None], columns] = True
        self.skips[slots[:, None], columns] = 0
        highest = np.maximum(self.reported_to[slots[:, None], columns], self.step[rows].max())
        self.reported_to[slots[:, None], columns] = highest
        awaited = self.member_from[slots[:, None], columns] <= self.serial[rows][:, None, None]
        awaited &= self.passed_to[slots][:, None] <= self.bar[rows[:, None], columns][:, None, :]
        self.missing[rows[:, None], columns] -= awaited.sum(axis=1, dtype=np.int32)

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
        if all_are(state, NONE):
            new: Bits = np.ones(state.shape, np.bool_)
            self._openall_are(cells_at(rows, columns), report, home, now_ns)
        else:
            new = state == NONE
            chosen = np.flatnonzero(new.any(axis=1))
            if not len(chosen):
                return
            rows, new = index_of(numbers_of(rows)[chosen].tolist()), new[chosen]
            report = report.rows(chosen, np.arange(len(report.columns)))
            if new.all():
                self._openall_are(cells_at(rows, columns), report, home, now_ns)
            else:
                self._open_some(numbers_of(rows), numbers_of(columns), new, report, home, now_ns)
        joined_later = self.derived().last_join > int(self.serial[rows].min())
        if joined_later or self.last_pass > int(report.bars.min()):
            self.recount(numbers_of(rows), numbers_of(columns)[new.any(axis=0)])
        if not self.derived().all_learned:
            for row, column in self._first_cells(numbers_of(rows), numbers_of(columns), new):
                self.first_row[column] = row

    def _openall_are(self, at: tuple[Index, Index], report: RankReport, home: Homes, now_ns: int) -> None:
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
