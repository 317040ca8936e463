"""The ranks that each cell waits for, and those that have passed it.

A cell waits for the ranks of ``member_from``: the rank in slot s is a reporter of metric m for rows whose
serial number is at least ``member_from[s, m]``. It does not wait for a rank that has *passed* it: the rank's
highest step is above the cell's *bar*, which is the highest step that the cell's first reporter had logged
when it reported. ``passed_to`` has the highest step of each slot, as far as ``missing`` has counted it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.root.panel.cells import CLOSED, OPEN, CellPanel
from tracker_daemon.aggregation.shared.panel import Bits
from tracker_daemon.aggregation.shared.placement import Index
from tracker_daemon.aggregation.values.contribution import NO_STEP

NEVER = np.iinfo(np.int64).max
UNLEARNED = -1


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


class ReporterPanel(CellPanel):
    """Cells, and the reporters of their metrics."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(names)
        width = self.width
        # Per slot and metric.
        self.member_from: Integers = np.empty((0, width), np.int64)
        self.ever_member: Bits = np.empty((0, width), np.bool_)
        self.skips: Integers = np.empty((0, width), np.int64)  # cells passed since the last report
        self.reported_to: Integers = np.empty((0, width), np.int64)  # the highest step reported
        self.passed_to: Integers = np.empty(0, np.int64)  # per slot
        # Per metric.
        self.learned = np.zeros(width, np.bool_)
        self.first_row = np.full(width, UNLEARNED, np.int64)
        self.joined_at = np.zeros(width, np.int64)  # the latest serial from which a reporter counts
        self.last_pass = NO_STEP  # the highest of ``passed_to``
        self._derived: _Derived | None = None

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

    def has_reported(self, slot: int, column: int) -> bool:
        """Return True if the rank in this slot has reported the metric."""
        return int(self.reported_to[slot, column]) != NO_STEP

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

    def note_passes(self, slots: Integers, highs: Integers, leaves_after: int) -> Integers:
        """Note the highest steps of ``slots``; return the rows of which a slot has passed a cell.

        A reporter that has passed a metric at ``leaves_after`` steps in a row is no reporter any more. Cells
        do not wait long for one that logs on. So the number may be large, for metrics logged now and then.
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
        leaving = slots[(self.skips[slots] >= leaves_after).any(axis=1)].tolist()
        for slot in leaving:
            gone = np.flatnonzero((self.skips[slot] >= leaves_after) & (self.member_from[slot] != NEVER))
            self.leave(slot, gone)
        return self.live_rows() if leaving else np.unique(rows)

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

    def complete_rows(self, rows: Index) -> None:
        """Close the cells of ``rows`` that wait for no rank."""
        state = self.state[rows]
        closing: Bits = (state == OPEN) & (self.missing[rows] <= 0)
        if not self.derived().all_learned:
            closing &= self.learned
        self.set_state(rows, closing, CLOSED)
