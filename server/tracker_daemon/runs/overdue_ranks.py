"""Ranks that are overdue: silent for too long, gone from this host, or absent. Each is found once."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable

from tracker_daemon.processes.host_watch import HostWatch
from tracker_daemon.runs.run import Run, Stream
from tracker_protocol import limits


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


def find_vanished_ranks(
    runs: Iterable[Run], host: HostWatch, awaits_command: Callable[[Stream], bool] = lambda _: False
) -> dict[Run, list[int]]:
    """Find the ranks whose processes are gone from this host for some seconds; mark them as lost.

    Ranks for which ``awaits_command`` is True are left out: their command ends soon, and reports their end.
    """
    now, vanished = time.monotonic(), defaultdict(list)
    for run in runs:
        for stream in run.current() if run.running else ():
            if stream.connection is not None or stream.finished or stream.lost:
                continue
            if stream.gone_since_s is None and host.is_gone(stream.place):
                stream.gone_since_s = now
            gone_s = now - (now if stream.gone_since_s is None else stream.gone_since_s)
            if gone_s >= limits.VANISHED_AFTER_S and not awaits_command(stream):
                stream.lost = True
                vanished[run].append(stream.rank)
    return vanished


def find_absent_ranks(
    runs: Iterable[Run], timeout_s: float, host: HostWatch | None = None
) -> dict[Run, list[int]]:
    """Find the ranks that have never connected and are no longer expected.

    They are expected for ``timeout_s`` seconds from the beginning of their run or attempt, at most. They are
    no longer expected once all ranks that connected have ended, and either their launcher on this ``host``
    has ended or no process has said hello for LATECOMERS_WAIT_S seconds.
    """
    now, absent = time.monotonic(), {}
    for run in runs:
        if not run.running or run.absence_reported:
            continue
        if now - run.waiting_since_s < timeout_s and not _expects_nobody(run, host, now):
            continue
        run.absence_reported = run.size() > 0
        if missing := run.missing():
            absent[run] = missing
    return absent


def _expects_nobody(run: Run, host: HostWatch | None, now: float) -> bool:
    if not run.have_all_ended():
        return False
    here = [] if host is None else [stream.place for stream in run.current() if host.is_here(stream.place)]
    if host is not None and here and all(map(host.is_launcher_gone, here)):
        return True
    return now - run.last_hello_s >= limits.LATECOMERS_WAIT_S
