"""A run in memory: its place in the journal, its fold, and the part that the event loop may read.

The recorder's thread owns ``fold`` and the marks of the snapshot. It replaces ``view``, which is frozen,
after each tick. The event loop reads only that.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from tracker_daemon.aggregation.shared.fold import Fold, FoldSummary
from tracker_daemon.aggregation.shared.rules import Rules


@dataclass(frozen=True, slots=True)
class RunView:
    """The state of a run after a tick. ``learning``: the fold needs to know of flushes."""

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
    """True if a FORWARD event would have an output for the root."""


@dataclass(slots=True, eq=False)
class LiveRun:
    """One run. ``row_id`` is 0 until the recorder has inserted it."""

    run_id: str
    rules: Rules
    created_ns: int
    row_id: int = 0
    forwards: bool = False
    """True if the run is forwarded to the root, and not aggregated here."""
    fold: Fold | None = None
    view: RunView = field(default_factory=RunView)
    uncovered_bytes: int = 0
    """Bytes journalled since the last snapshot."""
    snapshot_ns: int = 0
    deadline_ns: int | None = None
    notices: list[tuple[int, str]] = field(default_factory=list)
    """The latest notices: (time in ns, text)."""
    warnings: deque[str] = field(default_factory=deque)
    """Notices for users: the recorder appends them, the event loop removes and sends them."""
    at_end: FoldSummary | None = None
    """The fold's summary at the run's end, after which the fold is not kept in memory."""
