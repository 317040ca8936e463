"""The rows of one rank that are not emitted yet, and the ranks for which they wait."""

from __future__ import annotations

from tracker_daemon.aggregation.root.attempt import RootAttempt
from tracker_daemon.aggregation.root.panel.cells import CLOSED, OPEN
from tracker_daemon.aggregation.shared.fold import WaitingRows


def waiting_rows(attempt: RootAttempt, rank: int) -> WaitingRows:
    """Return the steps of the rank's rows that are not emitted, and the ranks that these rows lack."""
    queue = attempt.queues.get(rank)
    steps = set() if queue is None else {row.step for row in queue.waiting}
    lacking: set[int] = set()
    awaited = {other for other in attempt.membership.expected() if attempt.membership.is_awaited(other)}
    for panel in attempt.panels:
        slot = panel.slot_of.get(rank)
        if slot is None:
            continue
        rows = panel.live_rows()
        waits = (panel.state[rows] == OPEN) | (panel.state[rows] == CLOSED)
        if rank == attempt.rules.primary_rank:
            waits &= ~panel.own_out[rows]  # the rank's own value is emitted already
        own = rows[(panel.seen[rows, slot] & waits).any(axis=1)]
        if len(own):
            steps.update(panel.step[own].tolist())
            seen = panel.seen[own].any(axis=2).all(axis=0)
            lacking |= awaited - {other for other, at in panel.slot_of.items() if seen[at]}
    return WaitingRows(tuple(sorted(steps)), tuple(sorted(lacking)))
