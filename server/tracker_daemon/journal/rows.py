"""The rows of the journal's tables, as frozen value objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tracker_daemon.outbox.lanes import is_files_lane

RUNNING = "RUNNING"
"""A run with any other status has ended."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run. ``id`` is given by ``insert_run``; pass 0 there."""

    id: int
    run_id: str
    launch_key: str
    project: str
    name: str
    ordinal: int
    """The number of the set-up call that made the run, in its process and with its run key, from 0."""
    outdir: str
    options: str
    """A JSON object."""
    attempt: int = 1
    status: str = RUNNING
    reason: str = ""
    created_ns: int = 0
    ended_ns: int = 0
    run_key: str = ""
    """Tells the runs of one launch apart, if the script gives it."""


@dataclass(frozen=True, slots=True)
class StreamRow:
    """One process's stream into one run."""

    stream_id: bytes
    run: int
    rank: int
    attempt: int
    next_sequence: int = 1
    """The only sequence that is accepted next; all lower ones are durable."""
    host: str = ""
    pid: int = 0
    finished: bool = False
    exit_code: int = 0
    process: bytes = b""
    """The id of the process, which all its streams share; empty for a node's daemon."""
    agent: str = ""
    """Torchrun's agent that started the process; "" under every other launcher."""


@dataclass(frozen=True, slots=True)
class CursorRow:
    """The cursor of one backend in one run. The counts are totals since the run began."""

    run: int
    backend: str
    position: int
    """The number of the last outbox entry that is delivered or set aside; 0: none."""
    state: bytes
    delivered_records: int
    """Records; in a lane for files: items."""
    set_aside: int
    """Records (items) that this backend will never receive."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """One run's outbox and its cursors: ``emitted = delivered + pending + set aside``."""

    entries: int
    """Entries put so far; also the number of the last one."""
    records: int
    """Records in all entries, reclaimed ones included."""
    cursors: tuple[CursorRow, ...]
    last_files: int = 0
    """The number of the last FILES entry; 0: none."""
    pending_files: Mapping[str, int] = field(default_factory=dict)
    """By cursor: the FILES entries that it has not passed."""

    def pending(self, cursor: CursorRow) -> int:
        """Return the number of records, or of items in a lane for files, still to be delivered."""
        if is_files_lane(cursor.backend):
            return self.pending_files.get(cursor.backend, 0)
        return self.records - cursor.delivered_records - cursor.set_aside

    def end_of(self, cursor: CursorRow) -> int:
        """Return the number of the last entry that concerns ``cursor``."""
        return self.last_files if is_files_lane(cursor.backend) else self.entries


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """The rows deleted by one ``reclaim()``, or of one run since it began. Bytes include each row's own."""

    events: int = 0
    event_bytes: int = 0
    entries: int = 0
    entry_bytes: int = 0
    more: bool = False
    """True if the call reached its bound before the budgets were met: call again."""

    def __bool__(self) -> bool:
        return self.events > 0 or self.entries > 0
