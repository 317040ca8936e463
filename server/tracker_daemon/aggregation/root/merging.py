"""An attempt takes in what nodes' daemons say of their ranks, as it takes in what ranks say themselves.

A contribution of one rank is that rank's report. One of several is a report of each of them, as far as it
matters who has come, is waited for or is late; only their values are merged, into the cells' summaries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.numbers.summary import Summary
from tracker_daemon.aggregation.root.attempt import Attempt, Piece
from tracker_daemon.aggregation.root.panel import Index, Panel
from tracker_daemon.aggregation.shared.contribution import Contribution
from tracker_daemon.aggregation.shared.marks import Key
from tracker_daemon.aggregation.shared.placement import PlanPart


@dataclass(frozen=True, slots=True, eq=False)
class _Share:
    """The part of a contribution that belongs to one panel: n ``keys`` × ``columns``."""

    ranks: list[int]
    slots: Index
    keys: list[Key]
    columns: Index
    times_ns: NDArray[np.int64]
    values: NDArray[np.float64] | None
    summary: Summary | None

    def piece(self, rank: int) -> Piece:
        """What one of the ranks reports."""
        return Piece(rank, self.keys, self.columns, self.times_ns, self.values)

    def part(self, rows: Index, columns: Index) -> _Share:
        """Some of it, by the indices of keys and columns."""
        at = np.ix_(rows, columns)
        return _Share(
            self.ranks,
            self.slots,
            [self.keys[row] for row in rows.tolist()],
            self.columns[columns],
            self.times_ns[rows],
            None if self.values is None else self.values[at],
            None if self.summary is None else self.summary[at],
        )


def contribute(attempt: Attempt, plan: tuple[PlanPart, ...], contribution: Contribution, now_ns: int) -> None:
    """Take in a contribution, of which ``plan`` says where its metrics go."""
    keys: list[Key] = list(zip(contribution.steps.tolist(), contribution.occurrences.tolist(), strict=True))
    ranks = contribution.ranks.tolist()
    for part in plan:
        panel = attempt.panels[part.panel]
        taken = slice(None) if part.block_columns is None else part.block_columns
        values, summary = contribution.values, contribution.summary
        share = _Share(
            ranks,
            np.array([panel.slot(rank) for rank in ranks], np.int64),
            keys,
            part.columns,
            contribution.times_ns,
            None if values is None else values[:, taken],
            None if summary is None else summary[:, taken],
        )
        for new in _news(attempt, panel, share):
            if new.summary is None:
                attempt.put(part.panel, new.piece(ranks[0]), now_ns)
            else:
                _merge(attempt, part.panel, new, new.summary, now_ns)


def _news(attempt: Attempt, panel: Panel, share: _Share) -> Iterator[_Share]:
    """What of ``share`` is new of its ranks: all of it, unless a node tells the same of a rank twice."""
    again = _told_before(panel, share)
    if again is None:
        yield share
        return
    attempt.books.rejected += len(share.ranks) * int(again.sum())
    i, j = (int(first) for first in np.argwhere(again)[0])
    attempt.books.warn_once(
        attempt.notices,
        "told twice",
        f"a node's daemon sent values of ranks that it had sent before, or another had; the first are kept "
        f"(first: {panel.names[share.columns[j]]!r} at step {share.keys[i][0]}, rank {share.ranks[0]})",
    )
    for row in np.flatnonzero(~again.all(axis=1)).tolist():
        yield share.part(np.array([row]), np.flatnonzero(~again[row]))


def _told_before(panel: Panel, share: _Share) -> NDArray[np.bool_] | None:
    """In which cells some rank of ``share`` has reported already; None: in none."""
    rows = np.array([panel.row_of.get(key, -1) for key in share.keys], np.int64)
    known = np.flatnonzero(rows >= 0)
    if not len(known):
        return None
    old = rows[known]
    seen = panel.seen[old[:, None, None], share.slots[:, None], share.columns].any(axis=1)
    if not seen.any():
        return None
    again = np.zeros((len(rows), len(share.columns)), np.bool_)
    again[known] = seen
    return again


def _merge(attempt: Attempt, index: int, share: _Share, summary: Summary, now_ns: int) -> None:
    """Take in a summary over several ranks, as :meth:`Attempt.put` takes in what one reports."""
    panel = attempt.panels[index]
    if attempt.fenced:
        _all_late(attempt, panel, share, np.ones(summary.count.shape, np.bool_))
        return
    members = attempt.membership
    # Somebody who is not behind, if there is one: by such ranks it is told which rows are the newest.
    foremost = min(share.ranks, key=members.lagging.__contains__)
    rows = attempt.rows(index, share.keys, share.times_ns, foremost)
    late = panel.summarised(share.slots, rows, share.columns, summary, now_ns)
    attempt.came(share.ranks, panel, rows, late)
    if late is not None:
        _all_late(attempt, panel, share, late)
    joining = attempt.joining(panel, share.slots[:, None], share.columns).any(axis=1)
    for i in np.flatnonzero(joining).tolist():
        attempt.join(panel, int(share.slots[i]), share.piece(share.ranks[i]), rows, late)
    attempt.touched.setdefault(index, []).append(rows)


def _all_late(attempt: Attempt, panel: Panel, share: _Share, late: NDArray[np.bool_]) -> None:
    for rank in share.ranks:
        attempt.keep_late(panel, share.piece(rank), late)
