"""The Journal: the one public class. It owns the state directory's lock and the database."""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tracker_daemon.errors import StateDirectoryError
from tracker_daemon.journal.contents import ContentUses
from tracker_daemon.journal.database import JOURNAL_FILE_NAME, Database
from tracker_daemon.journal.event import Event, StoredEvent
from tracker_daemon.journal.eventlog import EventLog
from tracker_daemon.journal.lock import SILENCE_S, StateLock
from tracker_daemon.journal.outbox import Outbox
from tracker_daemon.journal.reclaim import Reclaimer
from tracker_daemon.journal.registry import Registry
from tracker_daemon.journal.retention import FOREVER
from tracker_daemon.journal.rows import Backlog, CursorRow, Reclaimed, RunRow, StreamRow
from tracker_daemon.outbox.entries import OutboxEntry

OUTBOX_SHARE = 4
"""The budget for delivered outbox entries is the history's budget divided by this number."""
SHRINK_BYTES_MAX = 64 * 1024 * 1024


class Journal:
    """The durable log of one state directory. Used by one thread at a time; it need not have opened it.

    Each write needs a ``begin()`` before it, and is durable once ``commit()`` returned. A wrong call (an
    unknown run, a sequence that is not the next) raises JournalError, changes nothing and leaves the
    transaction open. An error of the file or the disk breaks the journal: then every later call except
    ``close()`` raises JournalError.
    """

    def __init__(self, directory: Path, lock: StateLock, database: Database, history_bytes: int) -> None:
        """Use :meth:`open`."""
        self.directory = directory
        self._lock = lock
        self._database = database
        self._registry = Registry(database)
        self._log = EventLog(database, history_bytes)
        self._outbox = Outbox(database, history_bytes // OUTBOX_SHARE)
        self.content_uses = ContentUses(database, self._outbox.boundary)
        self._reclaimer = Reclaimer(database, self._log, self._outbox)
        self._load_boundaries()
        self._load_meta()

    @staticmethod
    def open(
        directory: Path,
        *,
        history_bytes: int,
        silence_s: float = SILENCE_S,
        clock: Callable[[], float] = time.monotonic,
        connection_class: type[sqlite3.Connection] = sqlite3.Connection,
    ) -> Journal:
        """Open or create the journal in ``directory``, which is made with mode 0700 if it is missing.

        ``history_bytes`` bounds the events that are kept only as history. Waits up to ``silence_s`` if the
        last daemon here ran on another host and did not end cleanly.

        Raises:
            StateDirectoryError: another daemon holds it (named), it is not writable, or locks do not work.
            JournalError: the database cannot be used; JournalCorrupt where it is damaged.
        """
        _prepare(directory)
        lock = StateLock(directory, silence_s=silence_s, clock=clock)
        try:
            database = Database(directory / JOURNAL_FILE_NAME, connection_class)
            try:
                return Journal(directory, lock, database, history_bytes)
            except BaseException:  # whatever it was: clean up, and raise it again
                database.close()
                raise
        except BaseException:  # whatever it was: clean up, and raise it again
            lock.release()
            raise

    def close(self) -> None:
        """Close the database and release the directory. An open transaction is lost. Can be called twice."""
        self._database.close()
        self._lock.release()

    # ---- the journal itself ----

    @property
    def token(self) -> str:
        """The secret that every client sends; made once for a state directory."""
        return self._token

    @property
    def epoch(self) -> int:
        """The journal's epoch: 1, and one more each time that the journal is found to have lost something."""
        return self._epoch

    def begin_epoch(self) -> int:
        """Start the next epoch and return it."""
        self._database.require_transaction()
        self._database.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (self._epoch + 1,))
        self._epoch += 1
        return self._epoch

    @property
    def next_tick(self) -> int:
        """One more than the greatest tick of any event ever appended."""
        return self._log.next_tick

    def size_bytes(self) -> int:
        """Return the bytes of the database and its WAL on disk; freed pages count until :meth:`shrink`."""
        size = 0
        for name in (JOURNAL_FILE_NAME, f"{JOURNAL_FILE_NAME}-wal"):
            with suppress(FileNotFoundError):
                size += (self.directory / name).stat().st_size
        return size

    # ---- transactions ----

    def begin(self) -> None:
        """Start a transaction."""
        self._require_ownership()
        self._database.begin()

    def commit(self) -> None:
        """Make the transaction durable. Raises JournalError if it may not be: then the journal is broken."""
        self._require_ownership()
        self._database.commit()

    def rollback(self) -> None:
        """Undo the open transaction, in memory too. Does nothing without one."""
        if self._database.in_transaction:
            self._database.rollback()
            self._registry.load()
            self._log.load()
            self._outbox.load()
            self.content_uses.load()
            self._load_boundaries()
            self._load_meta()

    # ---- runs and streams ----

    def insert_run(self, row: RunRow) -> int:
        """Store a run (``row.id`` is ignored) and return its id.

        Store its cursors, at position 0, in the same transaction. Entries of a run without cursors are
        history from the start.
        """
        self._database.require_transaction()
        run = self._registry.insert_run(row)
        self._log.retention.move_boundary(run, self._event_boundary(run))
        self._outbox.retention.move_boundary(run, self._outbox.boundary(run))
        return run

    def update_run(self, run: int, **changes: object) -> None:
        """Change columns of a run, by name. All events of an ended run are reclaimable."""
        self._database.require_transaction()
        self._registry.update_run(run, changes)
        if "status" in changes:
            self._log.retention.move_boundary(run, self._event_boundary(run))

    def runs(self) -> list[RunRow]:
        """Return every run, oldest first."""
        return self._registry.runs()

    def insert_stream(self, row: StreamRow) -> None:
        """Store a stream of an existing run."""
        self._database.require_transaction()
        self._registry.insert_stream(row)

    def update_stream(self, stream: bytes, **changes: object) -> None:
        """Change columns of a stream, by name; its id and run are fixed."""
        self._database.require_transaction()
        self._registry.update_stream(stream, changes)

    def streams(self, run: int | None = None) -> list[StreamRow]:
        """Return the streams of one run, or of all."""
        return self._registry.streams(run)

    # ---- events and snapshots ----

    def append(self, events: Sequence[Event], *, tick: int, time_ns: int) -> list[int]:
        """Store events in order and return their positions.

        Their streams advance: BATCH and REJECTED use up their own sequence, a GAP all sequences up to the
        one in its payload (:class:`Gap`). ``tick`` must be at least the greatest so far.

        Raises:
            JournalError: an unknown run or stream, a sequence that is not its stream's next.
        """
        self._database.require_transaction()
        planned = self._registry.plan(events)
        positions = self._log.append(events, tick, time_ns)
        self._registry.advance(planned)
        return positions

    def events_after(self, run: int, position: int, *, limit_bytes: int) -> list[StoredEvent]:
        """Return a run's next events after ``position``, about ``limit_bytes`` of payload; [] at the end.

        Raises:
            JournalCorrupt: the next event is damaged; continue after the error's ``position``.
        """
        return self._log.after(run, position, limit_bytes)

    def put_snapshot(self, run: int, position: int, payload: bytes) -> None:
        """Replace the run's snapshot; its events up to ``position`` become history."""
        self._database.require_transaction()
        self._registry.require_run(run)
        self._log.put_snapshot(run, position, payload)
        self._log.retention.move_boundary(run, self._event_boundary(run))

    def snapshot(self, run: int) -> tuple[int, bytes] | None:
        """Return the run's latest snapshot, (position, payload), or None."""
        return self._log.snapshot(run)

    # ---- outbox and cursors ----

    def put_outbox(self, run: int, kind: int, payload: bytes, records: int) -> int:
        """Add an entry with ``records`` records; return its number, contiguous from 1 in the run."""
        self._database.require_transaction()
        self._registry.require_run(run)
        return self._outbox.put(run, kind, payload, records)

    def outbox_after(
        self, run: int, number: int, *, limit_bytes: int, files_alone: bool = False
    ) -> list[OutboxEntry]:
        """Return a run's next entries after ``number``, about ``limit_bytes`` of payload; [] at the end.

        ``files_alone``: only entries of a lane for files.
        """
        return self._outbox.after(run, number, limit_bytes, files_alone=files_alone)

    def put_cursor(
        self,
        run: int,
        backend: str,
        position: int,
        state: bytes,
        delivered_records: int,
        set_aside: int = 0,
    ) -> None:
        """Store a backend's cursor: the last entry's number, the backend's state, and both totals."""
        self._database.require_transaction()
        self._registry.require_run(run)
        self._outbox.put_cursor(CursorRow(run, backend, position, state, delivered_records, set_aside))
        self._outbox.retention.move_boundary(run, self._outbox.boundary(run))

    def backlog(self, run: int) -> Backlog:
        """Return the run's numbers of entries and records, and all its cursors."""
        backlog = self._outbox.backlog(run)
        pending = {row.backend: self.content_uses.pending(run, row.position) for row in backlog.cursors}
        return replace(backlog, pending_files=pending)

    # ---- space ----

    def reclaim(self) -> Reclaimed:
        """Delete the oldest history beyond its budgets, a bounded amount. Costs little if there is none."""
        self._database.require_transaction()
        return self._reclaimer.reclaim()

    def reclaimed(self, run: int) -> Reclaimed:
        """Return how much of one run was reclaimed since it began."""
        return self._reclaimer.reclaimed(run)

    def shrink(self, limit_bytes: int = SHRINK_BYTES_MAX) -> int:
        """Give up to ``limit_bytes`` of free pages back to the file system; return the number of bytes.

        For a run's end: while runs are live, new rows fill the freed pages again. The next checkpoint cuts
        the file itself.
        """
        self._database.require_transaction()
        (free,) = self._database.one("PRAGMA freelist_count")
        pages = min(int(free), limit_bytes // self._database.page_bytes)
        for _ in range(pages):
            # One page a call, whatever the argument: Python makes one step of a statement without columns.
            self._database.execute("PRAGMA incremental_vacuum(1)")
        return pages * self._database.page_bytes

    # ---- inside ----

    def _require_ownership(self) -> None:
        try:
            self._lock.check()
        except StateDirectoryError as error:
            self._database.fail(str(error), error)

    def _event_boundary(self, run: int) -> int:
        return FOREVER if self._registry.ended(run) else self._log.snapshot_position(run)

    def _load_boundaries(self) -> None:
        runs = self._registry.run_ids()
        self._log.retention.load({run: self._event_boundary(run) for run in runs})
        self._outbox.retention.load({run: self._outbox.boundary(run) for run in runs})

    def _load_meta(self) -> None:
        kept = self._database.all("SELECT key, value FROM meta WHERE key IN ('token', 'epoch')")
        meta: dict[str, Any] = dict(kept)
        if not meta:
            meta = {"token": secrets.token_urlsafe(32), "epoch": 1}
            self._database.begin()
            self._database.execute_many("INSERT INTO meta (key, value) VALUES (?, ?)", meta.items())
            self._database.commit()
        self._token = str(meta["token"])
        self._epoch = int(meta["epoch"])


def _prepare(directory: Path) -> None:
    """Make the directory durably, for its owner alone: the journal holds the token."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        for synced in (directory, directory.parent):
            descriptor = os.open(synced, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise StateDirectoryError(f"cannot use the state directory {directory}: {error}") from error
