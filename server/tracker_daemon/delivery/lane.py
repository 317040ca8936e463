"""A lane: one run's outbox, one backend, and the cursor between them.

A lane opens the backend, reads, delivers, sets aside and commits. It never waits and never tries again: that
is the pump's decision. It is used on the pump's thread alone, but other threads may read its attributes.

A backend with a lane for files has two lanes in a run. One passes over FILES entries. The other reads only
them and the END. Each has its own cursor, so neither waits for the other.

Two things are set aside. A *poison entry* is one that the backend refuses as a whole: the slice is halved
until the entry is alone. Of any other entry the backend itself may set aside a part (see
``Backend.set_aside``); a lane counts and reports that part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import structlog

from tracker_daemon.backends.base import Backend, RunDescription
from tracker_daemon.delivery.cursor import Cursor, count_records
from tracker_daemon.errors import PoisonEntry
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_daemon.outbox.lanes import FILES_LANE

ReadOutbox = Callable[[int], list[OutboxEntry]]
"""Returns the next entries after a number, a slice bounded in bytes; empty if there is none."""

CommitCursor = Callable[[int, bytes, int, int], None]
"""Commits position, state, delivered records and records set aside; returns once durable."""

OnLocated = Callable[[RunDescription, str, str, Mapping[str, str]], None]
"""Called once, when the place of a run's record is known: the run, the backend's name, place and handles."""

log = structlog.get_logger(__name__)


class Lane:
    """Delivers one run's outbox to one backend, from ``cursor`` on.

    Attributes:
        cursor: the last committed one.
        is_open: True while the backend is open.
        end_delivered: True once this lane has delivered an END entry, or set it aside. A lane that begins
            behind the END entry does not know of it.
        location, handles: where the run is recorded, for a person and for a script.
        set_aside_reason: why something was set aside last; "" if nothing was.
    """

    def __init__(
        self,
        backend: Backend,
        run: RunDescription,
        cursor: Cursor,
        *,
        read: ReadOutbox,
        commit: CommitCursor,
        on_located: OnLocated | None,
    ) -> None:
        self.backend = backend
        self.run = run
        self.name = backend.name + FILES_LANE if run.files_lane else backend.name
        self.cursor = cursor
        self.is_open = False
        self.end_delivered = False
        self.location: str | None = None
        self.handles: Mapping[str, str] = backend.known_handles(run)
        self.handles_complete = False
        self.set_aside_reason = ""
        self._read = read
        self._commit = commit
        self._on_located = on_located
        self._passes_over_files = backend.separate_files and not run.files_lane
        self._log = log.bind(backend=self.name, run_id=run.run_id)

    def open(self) -> None:
        """Open the backend with the last committed state, unless it is open."""
        if self.is_open:
            return
        self.backend.open(self.run, self.cursor.state or None)
        self.is_open = True
        self._locate()

    def close(self) -> None:
        """Close the backend. Nothing is left half done: the next opening begins at the committed state."""
        self.is_open = False
        try:
            self.backend.close()
        # A backend may be anyone's code, and its failure to close must not end the pump.
        except Exception as error:  # noqa: BLE001
            self._log.warning("the backend did not close cleanly", error=f"{type(error).__name__}: {error}")

    def read(self) -> list[OutboxEntry]:
        """Return the next entries that the backend can take now; [] if there are none.

        A backend that can take none of a slice before it has seen more is shown a longer one.
        """
        entries = self._read(self.cursor.position)
        while entries:
            ready = self.backend.count_ready(entries)
            if ready:
                return entries[:ready]
            further = self._read(entries[-1].number)
            if not further:
                break
            entries = [*entries, *further]
        return []

    def deliver(self, entries: Sequence[OutboxEntry]) -> None:
        """Deliver ``entries``, as far as they are for this lane, and move the cursor behind them.

        The backend is closed afterwards if the last entry was poison.
        """
        mine = entries
        if self._passes_over_files:
            mine = [entry for entry in entries if entry.kind is not EntryKind.FILES]
        if mine:
            self._deliver(mine)
        if self.cursor.position < entries[-1].number:
            self._move(self.cursor.after_skipping(entries[-1]), ())

    def _deliver(self, entries: Sequence[OutboxEntry]) -> None:
        try:
            self.open()
            state = self.backend.deliver(entries, self._commit_midway)
        except PoisonEntry as error:
            self.close()  # A part of the slice may be stored already; the next opening undoes it.
            if len(entries) == 1:
                self._set_aside(entries[0], error)
                return
            middle = len(entries) // 2
            self._deliver(entries[:middle])
            self._deliver(entries[middle:])
            return
        parts = self.backend.set_aside()
        for part in parts:
            self._report_set_aside(part.entry, part.records, part.reason)
        self._move(self.cursor.after_delivery(entries, state, sum(part.records for part in parts)), entries)
        self._locate()

    def _commit_midway(self, state: bytes) -> None:
        self._move(self.cursor.with_state(state), ())

    def _set_aside(self, entry: OutboxEntry, error: PoisonEntry) -> None:
        self._report_set_aside(entry.number, count_records(entry), str(error))
        self._move(self.cursor.after_setting_aside(entry), (entry,))

    def _report_set_aside(self, entry: int, records: int, reason: str) -> None:
        self._log.error("set aside", entry=entry, records=records, reason=reason)
        self.set_aside_reason = reason

    def _move(self, cursor: Cursor, entries: Sequence[OutboxEntry]) -> None:
        self._commit(cursor.position, cursor.state, cursor.delivered_records, cursor.set_aside_records)
        self.cursor = cursor
        self.end_delivered = self.end_delivered or any(entry.kind is EntryKind.END for entry in entries)

    def _locate(self) -> None:
        is_first = self.location is None
        self.location = self.backend.location()
        # A handle that was known once stays known, also while the run is not open at its service.
        self.handles, self.handles_complete = {**self.handles, **self.backend.handles()}, True
        if is_first and self.location is not None and self._on_located is not None:
            self._on_located(self.run, self.backend.name, self.location, self.handles)
