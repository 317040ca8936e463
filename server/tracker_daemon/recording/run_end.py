"""The end of a run: its time, the run's status and reason, and their entry in the journal.

A run ends when it has no rank left. It is FAILED if any rank is lost, is absent, or ended with a code other
than 0. The reason names these ranks with their hosts and last steps. After a lost rank, the end waits for
``restart_grace_s``: if the rank starts again, the next attempt begins instead.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from tracker_daemon.aggregation.shared.fold import Fold, FoldSummary
from tracker_daemon.backends.base import RunStatus
from tracker_daemon.journal.store import Journal
from tracker_daemon.outbox.entries import EntryKind

_RANKS_NAMED = 8
_KILLED_BASE = 128
"""The exit status that a shell gives for signal N is 128 + N."""


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The end of a run; ``entry`` is its number in the outbox."""

    status: str
    reason: str
    entry: int


def due_ns(fold: Fold, restart_grace_ns: int) -> int | None:
    """Return the time from which a run counts as ended, in ns; None while a rank is left."""
    ending = fold.ending()
    if ending is None:
        return None
    return 0 if ending.lost_ns is None else ending.lost_ns + restart_grace_ns


def end(journal: Journal, run: int, fold: Fold, now_ns: int) -> RunEnd:
    """Journal the end, for the run and for its backends. On the recorder's thread."""
    summary = fold.summary()
    streams = journal.streams(run)
    hosts = {stream.rank: stream.host for stream in streams if stream.attempt == summary.attempt}
    ending = fold.ending()
    decided = None if ending is None else ending.outcome
    status, reason = decided or verdict(summary, hosts)
    journal.update_run(run, status=status, reason=reason, ended_ns=now_ns)
    payload = msgspec.json.encode({"status": status, "reason": reason})
    return RunEnd(status, reason, journal.put_outbox(run, EntryKind.END, payload, 0))


def verdict(summary: FoldSummary, hosts: Mapping[int, str]) -> tuple[str, str]:
    """Return the status of a run whose ranks have all ended, and the reason if it failed."""
    ends = {
        _exited(code): [rank for rank, c in summary.exit_codes.items() if c == code]
        for code in sorted(set(summary.exit_codes.values()) - {0})
    }
    for how, text in (("lost", "lost contact"), ("absent", "never connected")):
        ends[text] = [rank for rank, gone in summary.gone.items() if gone == how]
    reasons = [_named(what, ranks, summary, hosts) for what, ranks in ends.items() if ranks]
    return (RunStatus.FAILED.value, "; ".join(reasons)) if reasons else (RunStatus.FINISHED.value, "")


def _exited(code: int) -> str:
    number = -code if code < 0 else code - _KILLED_BASE
    try:
        return f"ended by {signal.Signals(number).name}"
    except ValueError:
        return f"exited with code {code}"


def _named(what: str, ranks: list[int], summary: FoldSummary, hosts: Mapping[int, str]) -> str:
    shown = ", ".join(_described(rank, summary, hosts) for rank in sorted(ranks)[:_RANKS_NAMED])
    more = f" and {len(ranks) - _RANKS_NAMED} more" if len(ranks) > _RANKS_NAMED else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}{more} {what}"


def _described(rank: int, summary: FoldSummary, hosts: Mapping[int, str]) -> str:
    """Return a rank with its host and its last recorded step, as far as these are known."""
    step = summary.last_step.get(rank)
    host = f" on {hosts[rank]}" if hosts.get(rank) else ""
    return f"{rank}{host}{'' if step is None else f' (last step {step})'}"
