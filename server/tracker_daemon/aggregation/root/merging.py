"""Applies the contributions of nodes' daemons to an attempt, as the attempt applies the reports of ranks.

A contribution of one rank is that rank's report. One of several ranks counts as a report of each: for being
in time, awaited or late. Only their values are merged, into the cells' summaries.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.root.attempt import RootAttempt
from tracker_daemon.aggregation.root.panel.contributions import RootPanel
from tracker_daemon.aggregation.root.reports import SummaryReport
from tracker_daemon.aggregation.shared.attempt import NO_ROW, RankReport
from tracker_daemon.aggregation.shared.marks import Key
from tracker_daemon.aggregation.shared.panel import Bits
from tracker_daemon.aggregation.shared.placement import Plan, PlanPart, numbers_of
from tracker_daemon.aggregation.values.contribution import Contribution
from tracker_protocol.kinds import Kind


def contribute(attempt: RootAttempt, plan: Plan, contribution: Contribution, now_ns: int) -> None:
    """Apply a contribution; ``plan`` has the places of its metrics."""
    for part in plan.parts:
        panel = attempt.panels[part.panel]
        if contribution.summary is None:
            for report in _new_to_rank(attempt, panel, _report(part, contribution)):
                attempt.progress.note_reported_row(report.rank, int(report.numbers.max()))
                attempt.put(part.panel, report, now_ns)
        else:
            for summary in _new_to_ranks(attempt, panel, _summary(panel, part, contribution)):
                _merge(attempt, part.panel, summary, now_ns)


def _keys(contribution: Contribution) -> list[Key]:
    return list(zip(contribution.steps.tolist(), contribution.occurrences.tolist(), strict=True))


def _report(part: PlanPart, contribution: Contribution) -> RankReport:
    assert contribution.values is not None, "one rank has its values"
    taken = slice(None) if part.block_columns is None else part.block_columns
    numbers = contribution.row_numbers
    return RankReport(
        int(contribution.ranks[0]),
        _keys(contribution),
        part.columns,
        part.index,
        contribution.times_ns,
        contribution.values[:, taken],
        None if contribution.kinds is None else contribution.kinds[:, taken],
        np.full(len(contribution.steps), NO_ROW, np.int64) if numbers is None else numbers,
        contribution.bars,
    )


def _summary(panel: RootPanel, part: PlanPart, contribution: Contribution) -> SummaryReport:
    assert contribution.summary is not None, "several ranks have a summary"
    taken = slice(None) if part.block_columns is None else part.block_columns
    ranks, kinds = contribution.ranks.tolist(), contribution.kinds
    return SummaryReport(
        ranks,
        np.array([panel.slot(rank) for rank in ranks], np.int64),
        _keys(contribution),
        part.columns,
        contribution.times_ns,
        contribution.bars,
        contribution.summary[:, taken],
        None if kinds is None else kinds[:, taken] != Kind.INT,
    )


def _new_to_rank(attempt: RootAttempt, panel: RootPanel, report: RankReport) -> Iterator[RankReport]:
    """Yield the cells that are new to the rank: all of them, unless a node sends a cell twice."""
    slots = np.array([panel.slot(report.rank)], np.int64)
    again = _reported_before(panel, report.keys, slots, report.columns)
    if again is None:
        yield report
        return
    _reject(attempt, panel, report, again, 1)
    for row in np.flatnonzero(~again.all(axis=1)).tolist():
        yield report.rows(np.array([row]), np.flatnonzero(~again[row]))


def _new_to_ranks(attempt: RootAttempt, panel: RootPanel, cells: SummaryReport) -> Iterator[SummaryReport]:
    """Yield the cells that are new to their ranks, as :func:`_new_to_rank` does."""
    again = _reported_before(panel, cells.keys, cells.slots, cells.columns)
    if again is None:
        yield cells
        return
    _reject(attempt, panel, cells.report(cells.ranks[0]), again, len(cells.ranks))
    for row in np.flatnonzero(~again.all(axis=1)).tolist():
        yield cells.part(np.array([row]), np.flatnonzero(~again[row]))


def _reject(attempt: RootAttempt, panel: RootPanel, report: RankReport, again: Bits, ranks: int) -> None:
    attempt.books.rejected += ranks * int(again.sum())
    i, j = (int(first) for first in np.argwhere(again)[0])
    attempt.books.warn_once(
        attempt.notices,
        "told twice",
        f"a node's daemon sent values of ranks that it had sent before, or another had; the first are kept "
        f"(first: {panel.names[report.columns[j]]!r} at step {report.keys[i][0]}, rank {report.rank})",
    )


def _reported_before(panel: RootPanel, keys: list[Key], slots: Integers, columns: Integers) -> Bits | None:
    """Return the mask of cells that some of the ranks has reported before; None if there are none."""
    rows = np.array([panel.row_of.get(key, -1) for key in keys], np.int64)
    known = np.flatnonzero(rows >= 0)
    if not len(known):
        return None
    old = rows[known]
    seen = panel.seen[old[:, None, None], slots[:, None], columns].any(axis=1)
    if not seen.any():
        return None
    again = np.zeros((len(rows), len(columns)), np.bool_)
    again[known] = seen
    return again


def _merge(attempt: RootAttempt, index: int, cells: SummaryReport, now_ns: int) -> None:
    """Apply a summary over several ranks, as :meth:`RootAttempt.put` applies the report of one."""
    panel = attempt.panels[index]
    if attempt.fenced:
        _all_late(attempt, panel, cells, np.ones(cells.summary.count.shape, np.bool_))
        return
    rows = numbers_of(attempt.rows(index, cells.keys, cells.times_ns, cells.ranks))
    late = panel.summarised(rows, cells, now_ns)
    attempt.note_in_time(cells.ranks, late)
    if late is not None:
        _all_late(attempt, panel, cells, late)
    joining = attempt.unawaited(panel, cells.slots[:, None], cells.columns).any(axis=1)
    for i in np.flatnonzero(joining).tolist():
        attempt.become_reporter(index, int(cells.slots[i]), cells.report(cells.ranks[i]), rows, late)
    attempt.touch(index, rows)


def _all_late(attempt: RootAttempt, panel: RootPanel, cells: SummaryReport, late: Bits) -> None:
    for rank in cells.ranks:
        attempt.keep_late(panel, cells.report(rank), late)
