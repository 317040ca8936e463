"""A run's end: FAILED if any rank is lost, absent or ended with a code other than 0."""

from __future__ import annotations

import msgspec

from tracker_daemon.aggregation.fold import RunFold
from tracker_daemon.backends.base import EntryKind, RunStatus
from tracker_daemon.journal.store import Journal

_RANKS_NAMED = 8


def verdict(fold: RunFold) -> tuple[str, str]:
    """How a run whose ranks have all ended stands: its status and, where it failed, why."""
    members = fold.attempt.membership
    reasons = [
        _named(f"exited with code {code}", [r for r, c in members.exit_codes.items() if c == code])
        for code in sorted(set(members.exit_codes.values()) - {0})
    ]
    for how, text in (("lost", "lost contact"), ("absent", "never came")):
        ranks = [rank for rank, gone in members.gone.items() if gone == how]
        if ranks:
            reasons.append(_named(text, ranks))
    return (RunStatus.FAILED.value, "; ".join(reasons)) if reasons else (RunStatus.FINISHED.value, "")


def _named(what: str, ranks: list[int]) -> str:
    shown = ", ".join(str(rank) for rank in sorted(ranks)[:_RANKS_NAMED])
    more = f" and {len(ranks) - _RANKS_NAMED} more" if len(ranks) > _RANKS_NAMED else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}{more} {what}"


def record(journal: Journal, run: int, status: str, reason: str, ended_ns: int) -> int:
    """Journal the end, for the run and for its backends; return the outbox entry's number."""
    journal.update_run(run, status=status, reason=reason, ended_ns=ended_ns)
    payload = msgspec.json.encode({"status": status, "reason": reason})
    return journal.put_outbox(run, EntryKind.END, payload, 0)
