"""Closes cells, and learns from the first cell of a metric which ranks report it.

A cell closes when each awaited rank has reported or passed it, or after it was open for ``partial_after``.
The first cell of a metric waits for all expected ranks. It also closes if each rank that owes it has reached
its step and has flushed SILENT_FLUSH_S after it opened; and after ``learn_wait``, if each expected rank has
flushed since. The ranks that have reported the metric by then are its reporters.
"""

from __future__ import annotations

import numpy as np

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.root.attempt import RootAttempt
from tracker_daemon.aggregation.root.panel.cells import CLOSED, OPEN
from tracker_daemon.aggregation.root.panel.contributions import RootPanel
from tracker_daemon.aggregation.root.panel.reporters import UNLEARNED
from tracker_daemon.aggregation.shared.marks import Key
from tracker_daemon.aggregation.shared.panel import Bits
from tracker_daemon.aggregation.shared.placement import Index
from tracker_protocol import limits

SILENT_FLUSH_NS = int(limits.SILENT_FLUSH_S * 1_000_000_000)


def settle(attempt: RootAttempt, now_ns: int) -> dict[int, Index]:
    """Close the cells that can close; return, by panel, the rows of which something may have changed."""
    attempt.settled_ns = now_ns
    _catch_up(attempt)
    _note_passes(attempt)
    for index in range(len(attempt.panels)):
        _close_first_cells(attempt, index, now_ns)
    if now_ns >= attempt.next_timeout_ns:
        _time_out(attempt, now_ns)
    touched = {index: attempt.panels[index].take_touched() for index in sorted(attempt.touched)}
    attempt.touched.clear()
    for index, rows in touched.items():
        attempt.panels[index].complete_rows(rows)
    return touched


# ---- ranks that pass cells, and ranks that catch up ----------------------------------------------


def _note_passes(attempt: RootAttempt) -> None:
    """Wait no more for ranks that have logged steps beyond cells that they did not report."""
    raised, attempt.progress.raised = attempt.progress.raised, set()
    if not raised:
        return
    for index, panel in enumerate(attempt.panels):
        ranks = [rank for rank in raised if rank in panel.slot_of]
        if ranks:
            slots = np.array([panel.slot_of[rank] for rank in ranks], np.int64)
            highs = attempt.progress.high[ranks]
            rows = panel.note_passes(slots, highs, limits.PASSED_STEPS_MAX)
            if len(rows):
                attempt.touch(index, rows)


def _catch_up(attempt: RootAttempt) -> None:
    """Wait again for lagging ranks that have reached one of the newest rows."""
    for rank, reports in sorted(attempt.caught_up.items()):
        if not any(key in attempt.recent for _, report, _ in reports for key in report.keys):
            continue
        attempt.membership.lagging.discard(rank)
        attempt.missed[rank] = 0
        attempt.notices.append(f"rank {rank} has caught up and is waited for again")
        if attempt.membership.is_awaited(rank):
            for index, report, serial in reports:
                panel = attempt.panels[index]
                panel.join(panel.slot_of[rank], report.columns, serial)
    attempt.caught_up.clear()


# ---- learning ------------------------------------------------------------------------------------


def _close_first_cells(attempt: RootAttempt, index: int, now_ns: int) -> None:
    panel = attempt.panels[index]
    if panel.derived().all_learned:
        return
    pending = np.flatnonzero(panel.first_row != UNLEARNED)
    for row in np.unique(panel.first_row[pending]).tolist():
        columns = pending[panel.first_row[pending] == row]
        closing = _can_close(attempt, panel, row, columns, now_ns)
        if closing.any():
            _learn(attempt, index, columns[closing])


def _can_close(attempt: RootAttempt, panel: RootPanel, row: int, columns: Integers, now_ns: int) -> Bits:
    """Return which of the first cells at ``row`` × ``columns`` can close."""
    awaited, progress, rules = attempt.membership.awaited(), attempt.progress, attempt.rules
    progress.reserve(len(awaited))
    size = len(awaited)
    owed = np.zeros((size, len(columns)), np.bool_)
    owed[awaited] = progress.high[:size][awaited][:, None] <= panel.bar[row, columns]
    ranks = np.array(panel.ranks, np.int64)
    known = ranks < size
    owed[ranks[known]] &= ~panel.seen[row, : len(ranks)][known][:, columns]
    opened = panel.opened_ns[row, columns]
    silent = (progress.last_step[:size, None] >= panel.step[row]) & (
        progress.flushed_ns[:size, None] >= opened + SILENT_FLUSH_NS
    )
    closing: Bits = ~(owed & ~silent).any(axis=0)
    closing |= now_ns >= opened + rules.partial_after_ns
    patient = opened + rules.learn_wait_ns
    if (now_ns >= patient).any():
        closing |= (now_ns >= patient) & (progress.oldest_flush_ns(awaited) >= patient)
    return closing


def _first_cells(panel: RootPanel, columns: Integers) -> Bits:
    """Return which slots have reported the first cell of each metric: (columns, slots)."""
    seen: Bits = panel.seen[panel.first_row[columns], : len(panel.ranks), columns]
    return seen


def _learn(attempt: RootAttempt, index: int, columns: Integers) -> None:
    """Close the first cells of ``columns`` and fix their reporters, and with them the metrics' layout.

    A rank that has reported a later cell, but not the first, is a reporter from that cell on.
    """
    panel = attempt.panels[index]
    awaited = np.array([attempt.membership.is_awaited(rank) for rank in panel.ranks], np.bool_)
    rows = panel.live_rows()
    first = _first_cells(panel, columns)
    ever: Bits = np.logical_or.reduce(panel.seen[rows, : len(panel.ranks)], axis=0)
    others = ever[:, columns].T & ~first
    panel.state[panel.first_row[columns], columns] = CLOSED
    for column, reported, joined in zip(columns.tolist(), first, others, strict=True):
        slots = np.flatnonzero(reported)
        panel.learn(column, slots, awaited[slots])
        for slot in np.flatnonzero(joined).tolist():
            panel.note_reporter(slot, np.array([column]))
            if awaited[slot]:
                serial = panel.serial[rows[panel.seen[rows, slot, column]]].min()
                panel.join(slot, np.array([column]), int(serial))
        attempt.fix_layout(panel, column)
    panel.recount(rows, columns)
    attempt.touch_all(index)


# ---- closing without all -------------------------------------------------------------------------


def _time_out(attempt: RootAttempt, now_ns: int) -> None:
    limit = attempt.rules.partial_after_ns
    oldest = now_ns
    missed: dict[int, set[Key]] = {}
    for index, panel in enumerate(attempt.panels):
        rows = panel.live_rows()
        waiting = panel.state[rows] == OPEN
        due = waiting & panel.learned & (now_ns - panel.opened_ns[rows] >= limit)
        if due.any():
            some = due.any(axis=1)
            _close_partial(attempt, index, rows[some], due[some], missed)
        still = panel.opened_ns[rows][waiting & ~due]
        oldest = min(oldest, int(still.min(initial=oldest)))
    attempt.next_timeout_ns = oldest + limit
    for rank, keys in sorted(missed.items()):
        _count_missed(attempt, rank, len(keys))


def _close_partial(
    attempt: RootAttempt, index: int, rows: Integers, due: Bits, missed: dict[int, set[Key]]
) -> None:
    """Close the cells that are ``due``; note in ``missed`` the keys that each awaited rank owes."""
    panel = attempt.panels[index]
    attempt.touch_all(index)
    panel.set_state(rows, due, CLOSED)
    awaited = panel.member_from[None] <= panel.serial[rows][:, None, None]
    passed = panel.passed_to[None, :, None] > panel.bar[rows][:, None, :]
    absent = awaited & ~panel.seen[rows] & ~passed & due[:, None, :]
    for slot in np.flatnonzero(absent.any(axis=(0, 2))).tolist():
        behind = rows[absent[:, slot].any(axis=1)]
        missed.setdefault(panel.ranks[slot], set()).update(panel.keys_at(behind))


def _count_missed(attempt: RootAttempt, rank: int, cells: int) -> None:
    attempt.missed[rank] = attempt.missed.get(rank, 0) + cells
    if attempt.missed[rank] >= attempt.rules.lagging_after_cells and rank not in attempt.lagging:
        attempt.membership.lagging.add(rank)
        last_step = attempt.progress.last_steps().get(rank, "none")
        attempt.notices.append(
            f"rank {rank} is lagging: it missed {attempt.missed[rank]} steps in a row (last reported: "
            f"{last_step}); aggregates continue without it"
        )
        attempt.wait_no_more(rank)


def close_all(attempt: RootAttempt) -> None:
    """Close every open cell as it is: the attempt is over."""
    for index, panel in enumerate(attempt.panels):
        unlearned = np.flatnonzero(panel.first_row != UNLEARNED)
        if len(unlearned):
            _learn(attempt, index, unlearned)
        rows = panel.live_rows()
        panel.set_state(rows, panel.state[rows] == OPEN, CLOSED)
        attempt.touch_all(index)


def close_oldest(attempt: RootAttempt, rows_to_close: int) -> None:
    """Close the oldest rows as partial, to bound the memory that open cells hold.

    Of rows that opened in one tick those of lower steps count as older, in whatever order they came.
    """
    ages = [_ages(panel) for panel in attempt.panels]
    all_ages = np.concatenate(ages) if ages else np.zeros((0, 3), np.int64)
    order = np.lexsort(all_ages.T[::-1])[: max(0, rows_to_close)]
    if not len(order):
        return
    youngest = all_ages[order[-1]]
    for index, (panel, age) in enumerate(zip(attempt.panels, ages, strict=True)):
        rows = _open_rows(panel)
        opened, step, occurrence = (age == youngest).T
        before = age < youngest
        due_rows = before[:, 0] | (opened & (before[:, 1] | (step & (before[:, 2] | occurrence))))
        due = (panel.state[rows] == OPEN) & due_rows[:, None]
        unlearned = np.flatnonzero(due.any(axis=0) & ~panel.learned)
        if len(unlearned):
            _learn(attempt, index, unlearned)
        panel.set_state(rows, due, CLOSED)
        attempt.touch_all(index)


def _open_rows(panel: RootPanel) -> Integers:
    rows = panel.live_rows()
    opened: Integers = rows[(panel.state[rows] == OPEN).any(axis=1)]
    return opened


def _ages(panel: RootPanel) -> Integers:
    """Return, for each row with open cells, when the first of them opened, its step and its occurrence."""
    rows = _open_rows(panel)
    opened = np.where(panel.state[rows] == OPEN, panel.opened_ns[rows], np.iinfo(np.int64).max)
    return np.stack((opened.min(axis=1), panel.step[rows], panel.occurrence[rows]), axis=1)
