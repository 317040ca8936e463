"""Applies the contributions of nodes' daemons to an attempt, as the attempt applies the reports of ranks.

A contribution of one rank is that rank's report. One of several ranks counts as a report of each: for being
in time, awaited or late. Only their values are merged, into the cells' summaries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tracker_daemon.aggregation.numbers.summary import Floats, Integers, Summary
from tracker_daemon.aggregation.root.attempt import RootAttempt
from tracker_daemon.aggregation.root.panel import RootPanel
from tracker_daemon.aggregation.shared.attempt import RankReport
from tracker_daemon.aggregation.shared.marks import Key
from tracker_daemon.aggregation.shared.panel import Bits
from tracker_daemon.aggregation.shared.placement import Plan
from tracker_daemon.aggregation.values.contribution import Contribution


@dataclass(frozen=True, slots=True, eq=False)
class _PanelCells:
    """The part of a contribution that belongs to one panel: n ``keys`` × ``columns``."""

    ranks: list[int]
    slots: Integers
    keys: list[Key]
    columns: Integers
    times_ns: Integers
    values: Floats | None
    summary: Summary | None

    def report(self, rank: int) -> RankReport:
        """Return the report of one of the ranks."""
        return RankReport(rank, self.keys, self.columns, self.times_ns, self.values)

    def part(self, rows: Integers, columns: Integers) -> _PanelCells:
        """Return some of the cells, by the indices of keys and columns."""
        at = np.ix_(rows, columns)
        return _PanelCells(
            self.ranks,
            self.slots,
            [self.keys[row] for row in rows.tolist()],
            self.columns[columns],
            self.times_ns[rows],
            None if self.values is None else self.values[at],
            None if self.summary is None else self.summary[at],
        )


def contribute(attempt: RootAttempt, plan: Plan, contribution: Contribution, now_ns: int) -> None:
    """Apply a contribution; ``plan`` has the places of its metrics."""
    keys: list[Key] = list(zip(contribution.steps.tolist(), contribution.occurrences.tolist(), strict=True))
    ranks = contribution.ranks.tolist()
    for part in plan.parts:
        panel = attempt.panels[part.panel]
        taken = slice(None) if part.block_columns is None else part.block_columns
        values, summary = contribution.values, contribution.summary
        cells = _PanelCells(
            ranks,
            np.array([panel.slot(rank) for rank in ranks], np.int64),
            keys,
            part.columns,
            contribution.times_ns,
            None if values is None else values[:, taken],
            None if summary is None else summary[:, taken],
        )
        for new in _new_cells(attempt, panel, cells):
            if new.summary is None:
                attempt.put(part.panel, new.report(ranks[0]), now_ns)
            else:
                _merge(attempt, part.panel, new, new.summary, now_ns)


def _new_cells(attempt: RootAttempt, panel: RootPanel, cells: _PanelCells) -> Iterator[_PanelCells]:
    """Yield the cells that are new to their ranks: all of them, unless a node sends a rank's cell twice."""
    again = _reported_before(panel, cells)
    if again is None:
        yield cells
        return
    attempt.books.rejected += len(cells.ranks) * int(again.sum())
    i, j = (int(first) for first in np.argwhere(again)[0])
    attempt.books.warn_once(
        attempt.notices,
        "told twice",
        f"a node's daemon sent values of ranks that it had sent before, or another had; the first are kept "
        f"(first: {panel.names[cells.columns[j]]!r} at step {cells.keys[i][0]}, rank {cells.ranks[0]})",
    )
    for row in np.flatnonzero(~again.all(axis=1)).tolist():
        yield cells.part(np.array([row]), np.flatnonzero(~again[row]))


def _reported_before(panel: RootPanel, cells: _PanelCells) -> Bits | None:
    """Return the mask of cells that some of the ranks has reported before; None if there are none."""
    rows = np.array([panel.row_of.get(key, -1) for key in cells.keys], np.int64)
    known = np.flatnonzero(rows >= 0)
    if not len(known):
        return None
    old = rows[known]
    seen = panel.seen[old[:, None, None], cells.slots[:, None], cells.columns].any(axis=1)
    if not seen.any():
        return None
    again = np.zeros((len(rows), len(cells.columns)), np.bool_)
    again[known] = seen
    return again


def _merge(attempt: RootAttempt, index: int, cells: _PanelCells, summary: Summary, now_ns: int) -> None:
    """Apply a summary over several ranks, as :meth:`RootAttempt.put` applies the report of one."""
    panel = attempt.panels[index]
    if attempt.fenced:
        _all_late(attempt, panel, cells, np.ones(summary.count.shape, np.bool_))
        return
    members = attempt.membership
    # A rank that does not lag, if there is one: such ranks define which rows are the newest.
    foremost = min(cells.ranks, key=members.lagging.__contains__)
    rows = attempt.rows(index, cells.keys, cells.times_ns, foremost)
    late = panel.summarised(cells.slots, rows, cells.columns, summary, now_ns)
    attempt.note_in_time(cells.ranks, panel, rows, late)
    if late is not None:
        _all_late(attempt, panel, cells, late)
    joining = attempt.unawaited(panel, cells.slots[:, None], cells.columns).any(axis=1)
    for i in np.flatnonzero(joining).tolist():
        attempt.become_reporter(panel, int(cells.slots[i]), cells.report(cells.ranks[i]), rows, late)
    attempt.touched.setdefault(index, []).append(rows)


def _all_late(attempt: RootAttempt, panel: RootPanel, cells: _PanelCells, late: Bits) -> None:
    for rank in cells.ranks:
        attempt.keep_late(panel, cells.report(rank), late)
