"""Ranks that are overdue: silent for too long, or not connected since their run began. Each is found once."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable

from tracker_daemon.runs.run import Run


def find_silent_ranks(runs: Iterable[Run], timeout_s: float) -> dict[Run, list[int]]:
    """Find the ranks without contact for ``timeout_s`` seconds, and mark them as lost."""
    now, silent = time.monotonic(), defaultdict(list)
    for run in runs:
        for stream in run.current() if run.running else ():
            is_gone = stream.connection is None and not stream.finished and not stream.lost
            if is_gone and now - stream.last_seen_s >= timeout_s:
                stream.lost = True
                silent[run].append(stream.rank)
    return silent


def find_absent_ranks(runs: Iterable[Run], timeout_s: float) -> dict[Run, list[int]]:
    """Find the ranks that have never connected, ``timeout_s`` seconds after their run or attempt began."""
    now, absent = time.monotonic(), {}
    for run in runs:
        if not run.running or run.absence_reported or now - run.waiting_since_s < timeout_s:
            continue
        run.absence_reported = run.size() > 0
        if missing := run.missing():
            absent[run] = missing
    return absent
