"""The end of a run: its time, the run's status and reason, and their entry in the journal.

A run ends when it has no rank left. It is FAILED if any rank is lost or ended with a code other than 0, or
if the launch's command failed and a rank did not call ``finish()`` itself. The reason names these ranks with
their hosts and last steps. It also names the ranks that never connected, which are no failure. After a lost
rank, the end waits for ``restart_grace_s``: if the rank starts again, the next attempt begins instead.
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
_VANISHED = "ended without finish() (killed, or by os._exit(): call tracker.finish() before it)"
_KILLED_BASE = 128
"""The exit status that a shell gives for signal N is 128 + N."""
_INTERRUPTED = {_KILLED_BASE + signal.SIGINT, -signal.SIGINT}


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
    document = {"status": status, "reason": reason, "interrupted": is_interrupted(summary)}
    payload = msgspec.json.encode(document)
    return RunEnd(status, reason, journal.put_outbox(run, EntryKind.END, payload, 0))


def verdict(summary: FoldSummary, hosts: Mapping[int, str]) -> tuple[str, str]:
    """Return the status of a run whose ranks have all ended, and the reason: failures and absent ranks."""
    failures = {
        _exited(code): [rank for rank, c in summary.exit_codes.items() if c == code]
        for code in sorted(set(summary.exit_codes.values()) - {0})
    }
    lost = {rank for rank, gone in summary.gone.items() if gone == "lost"}
    failures["lost contact"] = sorted(lost - summary.vanished)
    failures[_VANISHED] = sorted(lost & summary.vanished)
    reasons = [_named(what, ranks, summary, hosts) for what, ranks in failures.items() if ranks]
    reasons += _command_failure(summary)
    status = RunStatus.FAILED if reasons else RunStatus.FINISHED
    absent = [rank for rank, gone in summary.gone.items() if gone == "absent"]
    reasons += [_named("never connected", absent, summary, hosts)] if absent else []
    return status.value, "; ".join(reasons)


def _command_failure(summary: FoldSummary) -> list[str]:
    """Return the failure of the launch's command, unless each rank called ``finish()`` or one explains it."""
    status = summary.command_status
    finished_itself = not summary.exited and "lost" not in summary.gone.values()
    if not status or finished_itself or any(summary.exit_codes.values()):
        return []
    return [f"the command {_exited(status)}"]


def is_interrupted(summary: FoldSummary) -> bool:
    """Return True if Ctrl-C ended the command or a rank."""
    return not _INTERRUPTED.isdisjoint((summary.command_status, *summary.exit_codes.values()))


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
