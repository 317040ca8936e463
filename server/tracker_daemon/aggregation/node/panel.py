"""The panel of a node: values that its ranks have reported and that the root does not have yet.

Nothing closes here: a row is gathered until it is taken, and a rank that reports later opens it anew. Since
occurrences are counted, no rank has the same cell twice.

Time is counted in *windows*: a window ends when gathered values are forwarded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tracker_daemon.aggregation.numbers.accumulator import with_room
from tracker_daemon.aggregation.numbers.summary import Floats, Integers
from tracker_daemon.aggregation.shared.marks import Key
from tracker_daemon.aggregation.shared.panel import Bits, Panel

UNDECIDED, NOBODY = -2, -1


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """n rows that have left a panel of m metrics; ``ranks``, r of them, ascend.

    ``values`` and ``seen`` are (n, r, m). ``dense``, (r, m), marks the values that are forwarded as they are.
    """

    names: tuple[str, ...]
    ranks: Integers
    dense: Bits
    steps: Integers
    occurrences: Integers
    times_ns: Integers
    values: Floats
    seen: Bits


class NodePanel(Panel):
    """The rows of ``names``, for one attempt. ``values`` is (rows, slots, metrics)."""

    ROW_ARRAYS: ClassVar[tuple[str, ...]] = (*Panel.ROW_ARRAYS, "window")

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

    def grow_slots(self, slots: int) -> None:
        """Make room for ``slots`` slots."""
        super().grow_slots(slots)
        self.values = with_room(self.values, slots)
        ever = np.zeros((slots, self.width), np.bool_)
        ever[: len(self.ever)] = self.ever
        self.ever = ever

    # ---- in --------------------------------------------------------------------------------------

    def rows_at(self, keys: list[Key], times_ns: Integers, window: int) -> Integers:
        """Return the rows of ``keys``; missing ones are opened, with these times."""
        found = []
        for i, key in enumerate(keys):
            row = self.row_of.get(key)
            found.append(self.open_row(key, int(times_ns[i]), window) if row is None else row)
        return np.array(found, np.int64)

    def open_row(self, key: Key, time_ns: int, window: int) -> int:
        """Start a row for ``key``."""
        row = self.take_row(key, time_ns)
        self.window[row] = window
        return row

    def write(self, slot: int, rows: Integers, columns: Integers, values: Floats) -> None:
        """Write a rank's ``values`` (rows × columns); each of these cells is new to this rank."""
        self.values[rows[:, None], slot, columns] = values
        self.seen[rows[:, None], slot, columns] = True
        self.ever[slot, columns] = True
        self.points += values.size

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

    def take(self, rows: Integers, is_dense: Callable[[int], bool]) -> Gathered:
        """Remove and return ``rows``; the values of dense ranks are forwarded as they are."""
        ranks = np.array(self.ranks, np.int64)
        order = np.argsort(ranks, kind="stable")
        ranks = ranks[order]
        seen = self.seen[rows][:, order]
        reported: Bits = np.any(seen, axis=(0, 1))
        self._note_soles(reported)
        always = np.array([is_dense(rank) for rank in ranks.tolist()], np.bool_)
        gathered = Gathered(
            self.names,
            ranks,
            always[:, None] | (self.sole == ranks[:, None]),
            self.step[rows],
            self.occurrence[rows],
            self.time_ns[rows],
            self.values[rows][:, order],
            seen,
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
