"""A run that is in memory: its journal row, its fold, and what the event loop may read of them.

The recorder thread owns ``fold`` and the snapshot's marks. ``view`` is a frozen picture that it
replaces after each tick; the event loop reads only that.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from tracker_daemon.aggregation.shared.fold import Fold, FoldSummary
from tracker_daemon.aggregation.shared.rules import Rules


@dataclass(frozen=True, slots=True)
class RunView:
    """What a tick left: whether it learns (and so needs to know of flushes), and how it stands."""

    learning: bool = False
    status: str = "RUNNING"
    reason: str = ""
    ended_ns: int = 0
    last_entry: int = 0
    last_files: int = 0
    """The last outbox entry that has contents."""
    open_rows: int = 0
    open_bytes: int = 0
    """Memory that the open rows hold."""
    world_size: int = 0
    to_forward: bool = False
    """Whether a cut would bring something forth for the daemon above."""


@dataclass(slots=True, eq=False)
class LiveRun:
    """One run. ``row_id`` is 0 until the recorder has inserted it."""

    run_id: str
    rules: Rules
    created_ns: int
    row_id: int = 0
    forwards: bool = False
    """Whether it goes to the daemon above, and is not aggregated here."""
    fold: Fold | None = None
    view: RunView = field(default_factory=RunView)
    uncovered_bytes: int = 0
    """Journalled since the last snapshot."""
    snapshot_ns: int = 0
    deadline_ns: int | None = None
    events: list[tuple[int, str]] = field(default_factory=list)
    """The latest notices: (time in ns, text)."""
    warnings: deque[str] = field(default_factory=deque)
    """What the event loop has yet to tell: put there by the recorder, taken by the loop."""
    at_end: FoldSummary | None = None
    """What the fold said when the run had ended; it is not kept in memory beyond that."""
