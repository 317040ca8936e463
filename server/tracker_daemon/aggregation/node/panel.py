"""The panel of a node: values that its ranks have reported and that the root does not have yet.

Nothing closes here: a row is gathered until it is taken, and a rank that reports later opens it anew. Since
occurrences are counted, no rank has the same cell twice.

Time is counted in *windows*: a window ends when gathered values are forwarded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tracker_daemon.aggregation.numbers.summary import Floats, Integers
from tracker_daemon.aggregation.shared.attempt import NO_ROW, RankReport
from tracker_daemon.aggregation.shared.marks import Key
from tracker_daemon.aggregation.shared.panel import Bits, Panel
from tracker_daemon.aggregation.shared.placement import Index
from tracker_daemon.aggregation.values.batch import Kinds

UNDECIDED, NOBODY = -2, -1


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """n rows that have left a panel of m metrics; ``ranks``, r of them, ascend.

    ``values``, ``seen`` and ``kinds`` (None: all floats) are (n, r, m). ``dense``, (r, m), marks the values
    that are forwarded as they are. ``reporters`` (n, m) are the ranks that reported the cells first,
    ``numbers`` those of their rows, and ``bars`` the highest steps that they had logged then.
    """

    names: tuple[str, ...]
    ranks: Integers
    dense: Bits
    steps: Integers
    occurrences: Integers
    times_ns: Integers
    values: Floats
    seen: Bits
    kinds: Kinds | None
    bars: Integers
    reporters: Integers
    numbers: Integers


class NodePanel(Panel):
    """The rows of ``names``, for one attempt. ``values`` is (rows, slots, metrics)."""

    ROW_ARRAYS: ClassVar[tuple[str, ...]] = (*Panel.ROW_ARRAYS, "window", "bar", "reporter", "number")

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(names)
        self.ever: Bits = np.zeros((0, self.width), np.bool_)
        """The metrics that each slot has reported at some time."""
        self.sole: Integers = np.full(self.width, UNDECIDED, np.int64)
        """By metric the rank that alone had reported it when it was first taken."""
        self.points = 0

    # ---- storage ---------------------------------------------------------------------------------

    def allocate(self, capacity: int) -> None:
        """Make room for ``capacity`` rows, all of them free; what was there is gone."""
        super().allocate(capacity)
        self.values: Floats = np.zeros((capacity, self.slots, self.width))
        self.window: Integers = np.zeros(capacity, np.int64)
        self.bar: Integers = np.zeros((capacity, self.width), np.int64)
        self.reporter: Integers = np.full((capacity, self.width), NOBODY, np.int64)
        self.number: Integers = np.full((capacity, self.width), NO_ROW, np.int64)

    def grow_slots(self, slots: int) -> None:
        """Make room for ``slots`` slots."""
        super().grow_slots(slots)
        self.widen_values(slots)
        ever = np.zeros((slots, self.width), np.bool_)
        ever[: len(self.ever)] = self.ever
        self.ever = ever

    # ---- in --------------------------------------------------------------------------------------

    def rows_at(self, report: RankReport, window: int) -> Integers:
        """Return the rows of the report's keys; missing ones are opened, with its times."""
        missing = [i for i, key in enumerate(report.keys) if key not in self.row_of]
        if missing:
            self.open_rows([report.keys[i] for i in missing], report.times_ns[missing], window)
        return np.array([self.row_of[key] for key in report.keys], np.int64)

    def open_rows(self, keys: list[Key], times_ns: Integers, windows: int | Integers) -> None:
        """Start rows for ``keys``."""
        rows = self.take_rows(keys, times_ns)
        self.window[rows] = windows

    def write(self, slot: int, rows: Integers, report: RankReport) -> None:
        """Write a rank's report into ``rows``; each of these cells is new to this rank."""
        assert report.values is not None, "a rank reports its own values"
        columns, at = report.columns, (rows[:, None], slot, report.columns)
        self.set_values(at, report.values, report.kinds)
        self.seen[at] = True
        self.ever[slot, columns] = True
        self.points += report.values.size
        i, j = np.nonzero(self.reporter[rows[:, None], columns] == NOBODY)
        self.reporter[rows[i], columns[j]] = report.rank
        self.number[rows[i], columns[j]] = report.numbers[i]
        self.bar[rows[i], columns[j]] = report.bars[i]

    def clear(self, rows: Index) -> None:
        """Make ``rows`` as new rows are."""
        super().clear(rows)
        self.reporter[rows] = NOBODY
        self.number[rows] = NO_ROW

    # ---- out -------------------------------------------------------------------------------------

    def due_rows(self, window: int, live: set[int]) -> Integers:
        """Return the complete rows, and those that were there when the window before ``window`` ended.

        A row is complete when no ``live`` rank owes a metric of it that this rank reports at other times.
        """
        rows = self.live_rows()
        due = self.window[rows] < window
        young = ~due
        due[young] = self._complete(rows[young], live)
        return rows[due]

    def _complete(self, rows: Integers, live: set[int]) -> Bits:
        slots = [slot for slot, rank in enumerate(self.ranks) if rank in live]
        seen = self.seen[rows]
        reported: Bits = np.any(seen, axis=1)
        owed = reported[:, None, :] & self.ever[slots] & ~seen[:, slots]
        # A rank beyond the step has reported it before, or will not: what it logs there again is a repeat.
        beyond = self.occurrences.first[slots] >= self.step[rows][:, None, None]
        owed &= ~beyond | (self.occurrence[rows] > 0)[:, None, None]
        complete: Bits = np.logical_not(np.any(owed, axis=(1, 2)))
        return complete

    def take(self, rows: Integers) -> Gathered:
        """Remove and return ``rows``; the values of sole reporters are forwarded as they are."""
        ranks = np.array(self.ranks, np.int64)
        order = np.argsort(ranks, kind="stable")
        ranks = ranks[order]
        seen = self.seen[rows][:, order]
        reported: Bits = np.any(seen, axis=(0, 1))
        self._note_soles(reported)
        gathered = Gathered(
            self.names,
            ranks,
            self.sole == ranks[:, None],
            self.step[rows],
            self.occurrence[rows],
            self.time_ns[rows],
            self.values[rows][:, order],
            seen,
            None if self.kinds is None else self.kinds[rows][:, order],
            self.bar[rows],
            self.reporter[rows],
            self.number[rows],
        )
        self.free_rows(rows)
        self.points -= int(np.count_nonzero(seen))
        return gathered

    def _note_soles(self, taken: Bits) -> None:
        """Decide, when a metric is first taken, if one rank alone reports it."""
        columns = np.flatnonzero(taken & (self.sole == UNDECIDED))
        if not len(columns):
            return
        reporters = self.ever[: len(self.ranks), columns]
        first = np.array(self.ranks, np.int64)[reporters.argmax(axis=0)]
        self.sole[columns] = np.where(reporters.sum(axis=0) == 1, first, NOBODY)

    def busy_ranks(self) -> Iterator[int]:
        """Yield the ranks that have values here."""
        seen = self.seen[self.live_rows()].any(axis=(0, 2))
        return (self.ranks[slot] for slot in np.flatnonzero(seen).tolist())
