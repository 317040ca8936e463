"""Gathers the cells of rows, panel by panel, so that their states are looked at in one operation.

A *gather* has, for one panel, n pairs of a row of a rank (by its position in a list) and a row of the panel,
and which of the panel's cells belong to the pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.root.attempt import RootAttempt
from tracker_daemon.aggregation.root.panel.cells import CLOSED, OPEN, OTHER, PRIMARY, SOLE
from tracker_daemon.aggregation.root.panel.contributions import RootPanel
from tracker_daemon.aggregation.root.rows import HomeRow, Part
from tracker_daemon.aggregation.shared.panel import Bits
from tracker_daemon.aggregation.shared.placement import Index, index_of, numbers_of


@dataclass(frozen=True, slots=True, eq=False)
class Gather:
    """Cells of one panel: ``positions`` and ``rows`` are of n, ``closed`` and ``opened`` (n, metrics)."""

    panel: int
    positions: Integers
    rows: Index
    closed: Bits
    opened: Bits

    def between(self, first: int, end: int) -> Gather:
        """Return the pairs of the rows at these positions, which count from ``first`` then."""
        if not first and int(self.positions[-1]) < end:
            return self  # positions ascend
        some = self.at((self.positions >= first) & (self.positions < end))
        return some.moved(some.positions - first)

    def moved(self, positions: Integers) -> Gather:
        """Return the pairs with other positions."""
        return Gather(self.panel, positions, self.rows, self.closed, self.opened)

    def at(self, chosen: Bits) -> Gather:
        """Return the chosen pairs."""
        rows = numbers_of(self.rows)[chosen]
        return Gather(self.panel, self.positions[chosen], rows, self.closed[chosen], self.opened[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """The cells of n rows, and by row: has it closed cells, open ones, open ones of learned metrics."""

    gathers: tuple[Gather, ...]
    closed: Bits
    opened: Bits
    awaited: Bits


def gather(attempt: RootAttempt, rank: int, rows: Sequence[HomeRow]) -> Gathered:
    """Gather the cells of ``rows``, which are of ``rank`` and the homes of these cells."""
    collected: dict[int, tuple[list[int], list[Part]]] = {}
    for position, row in enumerate(rows):
        for part in row.parts:
            found = collected.get(part[0])
            if found is None:
                found = collected[part[0]] = [], []
            found[0].append(position)
            found[1].append(part)
    closed, opened, awaited = (np.zeros(len(rows), np.bool_) for _ in range(3))
    gathers = []
    for index, (positions, parts) in collected.items():
        one = _gather(attempt, rank, index, np.array(positions, np.int64), parts)
        gathers.append(one)
        closed[one.positions[one.closed.any(axis=1)]] = True
        if one.opened.any():
            opened[one.positions[one.opened.any(axis=1)]] = True
            learned = one.opened & attempt.panels[index].learned
            awaited[one.positions[learned.any(axis=1)]] = True
    return Gathered(tuple(gathers), closed, opened, awaited)


def _gather(attempt: RootAttempt, rank: int, index: int, positions: Integers, parts: list[Part]) -> Gather:
    panel = attempt.panels[index]
    rows = index_of([row for _, row, _, _ in parts])
    serials = np.array([serial for _, _, serial, _ in parts], np.int64)
    there: Bits = np.ones(len(parts), np.bool_)
    if (rows.stop if isinstance(rows, slice) else int(rows.max()) + 1) > len(panel.serial):
        # A row of the panel may have been freed, and even its place, once another rank's row was emitted.
        rows = numbers_of(rows)
        there = rows < len(panel.serial)
        rows = np.where(there, rows, 0)
    there &= (panel.serial[rows] == serials) & panel.in_use[rows]
    mask = _is_home(attempt, panel, rank, rows) & there[:, None]
    _leave_out_others(mask, [columns for *_, columns in parts])
    state = panel.state[rows]
    return Gather(index, positions, rows, mask & (state == CLOSED), mask & (state == OPEN))


def _leave_out_others(mask: Bits, columns: list[Integers]) -> None:
    """Leave out of each row of ``mask`` all columns but those of the row."""
    first, width = columns[0], mask.shape[1]
    if all(some is first for some in columns):
        if len(first) < width:
            mask[:, np.setdiff1d(np.arange(width), first, assume_unique=True)] = False
        return
    for row, some in zip(mask, columns, strict=True):
        own = row[some]
        row[:] = False
        row[some] = own


def _is_home(attempt: RootAttempt, panel: RootPanel, rank: int, rows: Index) -> Bits:
    """Return which cells of ``rows`` have a row of ``rank`` as their home."""
    home = panel.home[rows]
    if rank == attempt.rules.primary_rank:
        mine: Bits = home == PRIMARY
        return mine
    housed: Bits = (home == rank) | ((home == SOLE) & (panel.owner == rank))
    return housed


def homeless(panel: RootPanel, rows: Index) -> Bits:
    """Return the closed cells of ``rows`` that no rank's row is the home of: (n, metrics)."""
    found: Bits = (panel.home[rows] >= OTHER) | (panel.home_row[rows] < 0)
    if found.any():
        found &= panel.state[rows] == CLOSED
        found &= panel.in_use[rows][:, None]
    return found
