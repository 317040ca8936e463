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
from tracker_daemon.aggregation.root.panel import CLOSED, OPEN, OTHER, PRIMARY, SOLE, RootPanel
from tracker_daemon.aggregation.root.rows import HomeRow
from tracker_daemon.aggregation.shared.panel import Bits


@dataclass(frozen=True, slots=True, eq=False)
class Gather:
    """Cells of one panel: ``positions`` and ``rows`` are (n,), ``closed`` and ``opened`` (n, metrics)."""

    panel: int
    positions: Integers
    rows: Integers
    closed: Bits
    opened: Bits

    def between(self, first: int, end: int) -> Gather:
        """Return the pairs of the rows at these positions, which count from ``first`` then."""
        some = self.at((self.positions >= first) & (self.positions < end))
        return some.moved(some.positions - first)

    def moved(self, positions: Integers) -> Gather:
        """Return the pairs with other positions."""
        return Gather(self.panel, positions, self.rows, self.closed, self.opened)

    def at(self, chosen: Bits) -> Gather:
        """Return the chosen pairs."""
        return Gather(
            self.panel, self.positions[chosen], self.rows[chosen], self.closed[chosen], self.opened[chosen]
        )


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """The cells of n rows, and by row: has it closed cells, open ones, open ones of learned metrics."""

    gathers: tuple[Gather, ...]
    closed: Bits
    opened: Bits
    awaited: Bits


def gather(attempt: RootAttempt, rank: int, rows: Sequence[HomeRow]) -> Gathered:
    """Gather the cells of ``rows``, which are of ``rank`` and the homes of these cells."""
    collected: dict[int, list[tuple[int, int, int, Integers]]] = {}
    for position, row in enumerate(rows):
        for index, panel_row, serial, columns in row.parts:
            collected.setdefault(index, []).append((position, panel_row, serial, columns))
    shape = len(rows)
    closed, opened, awaited = (np.zeros(shape, np.bool_) for _ in range(3))
    gathers = []
    for index, parts in collected.items():
        one = _gather(attempt, rank, index, parts)
        gathers.append(one)
        np.logical_or.at(closed, one.positions, one.closed.any(axis=1))
        np.logical_or.at(opened, one.positions, one.opened.any(axis=1))
        learned = attempt.panels[index].learned
        np.logical_or.at(awaited, one.positions, (one.opened & learned).any(axis=1))
    return Gathered(tuple(gathers), closed, opened, awaited)


def _gather(
    attempt: RootAttempt, rank: int, index: int, parts: list[tuple[int, int, int, Integers]]
) -> Gather:
    panel = attempt.panels[index]
    positions = np.array([position for position, *_ in parts], np.int64)
    rows = np.array([row for _, row, *_ in parts], np.int64)
    serials = np.array([serial for *_, serial, _ in parts], np.int64)
    # A row of the panel may have been freed, and even its place, once another rank's row was emitted.
    there = rows < len(panel.serial)
    rows = np.where(there, rows, 0)
    there &= (panel.serial[rows] == serials) & panel.in_use[rows]
    mask = _mask(panel.width, [columns for *_, columns in parts]) & there[:, None]
    mask &= _is_home(attempt, panel, rank, rows)
    state = panel.state[rows]
    return Gather(index, positions, rows, mask & (state == CLOSED), mask & (state == OPEN))


def _mask(width: int, columns: list[Integers]) -> Bits:
    mask = np.zeros((len(columns), width), np.bool_)
    first = columns[0]
    if all(some is first for some in columns):
        mask[:, first] = True
    else:
        for row, some in zip(mask, columns, strict=True):
            row[some] = True
    return mask


def _is_home(attempt: RootAttempt, panel: RootPanel, rank: int, rows: Integers) -> Bits:
    """Return which cells of ``rows`` have a row of ``rank`` as their home."""
    home = panel.home[rows]
    if rank == attempt.rules.primary_rank:
        mine: Bits = home == PRIMARY
        return mine
    housed: Bits = (home == rank) | ((home == SOLE) & (panel.owner == rank))
    return housed


def homeless(panel: RootPanel, rows: Integers) -> Bits:
    """Return the closed cells of ``rows`` that no rank's row is the home of: (n, metrics)."""
    home, without_row = panel.home[rows], panel.home_row[rows] < 0
    found: Bits = (panel.state[rows] == CLOSED) & ((home >= OTHER) | without_row)
    return found & panel.in_use[rows][:, None]
