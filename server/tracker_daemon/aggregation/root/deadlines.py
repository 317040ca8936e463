"""The time at which an attempt changes without an event."""

from __future__ import annotations

import numpy as np

from tracker_daemon.aggregation.root.attempt import RootAttempt
from tracker_daemon.aggregation.root.closing import SILENT_FLUSH_NS
from tracker_daemon.aggregation.root.emission.ordering import next_early_ns
from tracker_daemon.aggregation.root.panel.cells import OPEN
from tracker_daemon.aggregation.root.panel.contributions import RootPanel
from tracker_daemon.aggregation.root.panel.reporters import UNLEARNED


def next_deadline_ns(attempt: RootAttempt) -> int | None:
    """Return the time at which something changes without an event; None while nothing waits.

    After some waits only a flush changes something, and a flush is an event itself.
    """
    deadlines = [time_ns for panel in attempt.panels for time_ns in _of_panel(attempt, panel)]
    early_ns = next_early_ns(attempt)
    if early_ns is not None:
        deadlines.append(early_ns)
    return min(deadlines, default=None)


def _of_panel(attempt: RootAttempt, panel: RootPanel) -> list[int]:
    deadlines = []
    rows = panel.live_rows()
    waiting = panel.state[rows] == OPEN
    if waiting.any():
        deadlines.append(int(panel.opened_ns[rows][waiting].min()) + attempt.rules.partial_after_ns)
    pending = np.flatnonzero(panel.first_row != UNLEARNED)
    if len(pending):
        opened = panel.opened_ns[panel.first_row[pending], pending]
        for wait_ns in (SILENT_FLUSH_NS, attempt.rules.learn_wait_ns):
            patient = opened + wait_ns
            deadlines.extend(patient[patient > attempt.settled_ns].tolist())
    return deadlines
