"""Closes cells, and learns from the first cell of a metric which ranks report it.

A cell closes when it waits for no rank any more, or after it was open for ``partial_after``. The first cell
of a metric waits for all ranks, or until ``learn_wait`` has passed and each rank has flushed since. The ranks
that have reported the metric by then are its reporters.
"""

from __future__ import annotations

import numpy as np

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.root.attempt import RootAttempt
from tracker_daemon.aggregation.root.panel import CLOSED, OPEN, UNLEARNED, RootPanel
from tracker_daemon.aggregation.shared.marks import Key
from tracker_daemon.aggregation.shared.panel import Bits


def settle(attempt: RootAttempt, now_ns: int) -> list[Key]:
    """Close the cells that can close; return, in order, the keys with records that can be emitted."""
    attempt.settled_ns = now_ns
    for index in range(len(attempt.panels)):
        _close_first_cells(attempt, index, now_ns)
    if now_ns >= attempt.next_timeout_ns:
        _time_out(attempt, now_ns)
    return _ready(attempt)


def _ready(attempt: RootAttempt) -> list[Key]:
    ready: set[Key] = set()
    for index, arrays in attempt.touched.items():
        panel = attempt.panels[index]
        rows = np.unique(np.concatenate(arrays))
        panel.complete_rows(rows)
        done = rows[~(panel.state[rows] == OPEN).any(axis=1)]
        ready.update(zip(panel.step[done].tolist(), panel.occurrence[done].tolist(), strict=True))
    attempt.touched.clear()
    ready.update(attempt.extras)
    return sorted(key for key in ready if not _waits(attempt, key))


def _waits(attempt: RootAttempt, key: Key) -> bool:
    return any(attempt.panels[panel].is_open(row) for panel, row in attempt.parts_at.get(key, ()))


# ---- learning ------------------------------------------------------------------------------------


def _close_first_cells(attempt: RootAttempt, index: int, now_ns: int) -> None:
    panel, members, rules = attempt.panels[index], attempt.membership, attempt.rules
    pending = np.flatnonzero(panel.first_row != UNLEARNED)
    if not len(pending):
        return
    awaited = _awaited(attempt, panel)
    reported = _first_cells(panel, pending) & awaited
    opened = panel.opened_ns[panel.first_row[pending], pending]
    closing = reported.sum(axis=1) >= members.awaited_count()
    closing |= now_ns >= opened + rules.partial_after_ns
    patient = opened + rules.learn_wait_ns
    if (now_ns >= patient).any():
        closing |= (now_ns >= patient) & (members.oldest_flush_ns() >= patient)
    if closing.any():
        _learn(attempt, index, pending[closing], awaited)


def _awaited(attempt: RootAttempt, panel: RootPanel) -> Bits:
    return np.array([attempt.membership.is_awaited(rank) for rank in panel.ranks], np.bool_)


def _first_cells(panel: RootPanel, columns: Integers) -> Bits:
    """Return which slots have reported the first cell of each metric: (columns, slots)."""
    seen: Bits = panel.seen[panel.first_row[columns], : len(panel.ranks), columns]
    return seen


def _learn(attempt: RootAttempt, index: int, columns: Integers, awaited: Bits) -> None:
    """Close the first cells of ``columns`` and fix their reporters, and with them the metrics' layout.

    A rank that has reported a later cell, but not the first, is a reporter from that cell on.
    """
    panel = attempt.panels[index]
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
    """Close the cells that are ``due``; note in ``missed`` the keys that each rank has not reached yet."""
    panel = attempt.panels[index]
    attempt.touch_all(index)
    _close(panel, rows, due)
    serial = panel.serial[rows]
    absent = (panel.member_from[None] <= serial[:, None, None]) & ~panel.seen[rows] & due[:, None, :]
    for slot in np.flatnonzero(absent.any(axis=(0, 2))).tolist():
        rank = panel.ranks[slot]
        passed = serial < attempt.newest.get(rank, -1)
        # A rank that continued without a metric no longer reports it; it does not lag.
        skipped = np.flatnonzero(absent[passed, slot].any(axis=0))
        if len(skipped):
            panel.leave(slot, skipped)
        behind = rows[~passed & absent[:, slot].any(axis=1)]
        keys = zip(panel.step[behind].tolist(), panel.occurrence[behind].tolist(), strict=True)
        missed.setdefault(rank, set()).update(keys)


def _close(panel: RootPanel, rows: Integers, due: Bits) -> None:
    state = panel.state[rows]
    state[due] = CLOSED
    panel.state[rows] = state


def _count_missed(attempt: RootAttempt, rank: int, cells: int) -> None:
    attempt.missed[rank] = attempt.missed.get(rank, 0) + cells
    if attempt.missed[rank] >= attempt.rules.lagging_after_cells and rank not in attempt.lagging:
        attempt.lagging.add(rank)
        attempt.notices.append(
            f"rank {rank} is lagging: it missed {attempt.missed[rank]} steps in a row (last reported: "
            f"{attempt.last_step.get(rank, 'none')}); aggregates continue without it"
        )
        attempt.wait_no_more(rank)


def close_all(attempt: RootAttempt) -> None:
    """Close every open cell as it is: the attempt is over."""
    for index, panel in enumerate(attempt.panels):
        unlearned = np.flatnonzero(panel.first_row != UNLEARNED)
        if len(unlearned):
            _learn(attempt, index, unlearned, _awaited(attempt, panel))
        rows = panel.live_rows()
        _close(panel, rows, panel.state[rows] == OPEN)
        attempt.touch_all(index)


def close_oldest(attempt: RootAttempt, rows_to_close: int) -> None:
    """Close the oldest rows as partial, to bound the memory that open cells hold."""
    live = [panel.serial[panel.live_rows()] for panel in attempt.panels]
    serials = np.sort(np.concatenate(live)) if live else np.zeros(0, np.int64)
    oldest = serials[: max(0, rows_to_close)]
    if not len(oldest):
        return
    for index, panel in enumerate(attempt.panels):
        rows = panel.live_rows()
        due = (panel.state[rows] == OPEN) & (panel.serial[rows] <= oldest[-1])[:, None]
        unlearned = np.flatnonzero(due.any(axis=0) & ~panel.learned)
        if len(unlearned):
            _learn(attempt, index, unlearned, _awaited(attempt, panel))
        _close(panel, rows, due)
        attempt.touch_all(index)
