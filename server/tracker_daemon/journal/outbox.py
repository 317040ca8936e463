"""The outbox: the entries that backends receive, and the cursor of each backend."""

from __future__ import annotations

from tracker_daemon.errors import JournalCorrupt, JournalError
from tracker_daemon.journal.database import Database
from tracker_daemon.journal.event import record_checksum
from tracker_daemon.journal.retention import FOREVER, Retention, weight
from tracker_daemon.journal.rows import Backlog, CursorRow
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_daemon.outbox.lanes import is_files_lane

_INSERT = (
    "INSERT INTO outbox (position, run, number, kind, records, size, crc, payload)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_AFTER = "SELECT number, kind, records, crc, payload FROM outbox WHERE run = ? AND number > ? ORDER BY number"
_FILES_AFTER = (
    "SELECT number, kind, records, crc, payload FROM outbox WHERE run = ? AND number > ? AND kind IN (3, 5)"
    " ORDER BY number"
)
_PUT_CURSOR = (
    "INSERT INTO cursor (run, backend, position, delivered_records, set_aside, crc, state)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run, backend) DO UPDATE SET position = excluded.position,"
    " delivered_records = excluded.delivered_records, set_aside = excluded.set_aside,"
    " crc = excluded.crc, state = excluded.state"
)
_CURSORS = (
    "SELECT run, backend, position, state, delivered_records, set_aside, crc FROM cursor"
    " WHERE run = ? ORDER BY backend"
)


class Outbox:
    """The tables ``outbox`` and ``cursor``."""

    def __init__(self, database: Database, share_bytes: int) -> None:
        self._database = database
        self.retention = Retention(database, "outbox", "number", share_bytes, records="records")
        self.load()

    def load(self) -> None:
        """Load the counts of entries and records, and the cursors' positions, from the database."""
        (last,) = self._database.one("SELECT max(position) FROM outbox")
        self._next_position: int = (last or 0) + 1
        self._last_number: dict[int, int] = {}
        self._records: dict[int, int] = {}
        for run, number, records in self._database.all("SELECT run, last_number, records FROM reclaimed"):
            self._last_number[run], self._records[run] = number, records
        counted = self._database.all("SELECT run, max(number), sum(records) FROM outbox GROUP BY run")
        for run, number, records in counted:
            self._last_number[run] = number
            self._records[run] = self._records.get(run, 0) + records
        files = "SELECT run, max(number) FROM outbox WHERE kind IN (3, 5) AND kind = 5 GROUP BY run"
        self._last_files: dict[int, int] = dict(self._database.all(files))
        self._positions: dict[int, dict[str, int]] = {}
        for run, backend, position in self._database.all("SELECT run, backend, position FROM cursor"):
            self._positions.setdefault(run, {})[backend] = position

    # ---- entries ----

    def put(self, run: int, kind: int, payload: bytes, records: int) -> int:
        """Store an entry and return its number."""
        number = self._last_number.get(run, 0) + 1
        crc = record_checksum((run, number, kind, records), payload)
        row = (self._next_position, run, number, int(kind), records, weight(payload), crc, payload)
        self._database.execute(_INSERT, row)
        self._next_position += 1
        self._last_number[run] = number
        if kind == EntryKind.FILES:
            self._last_files[run] = number
        self._records[run] = self._records.get(run, 0) + records
        self.retention.added(run, number, weight(payload))
        return number

    def after(
        self, run: int, number: int, limit_bytes: int, *, files_alone: bool = False
    ) -> list[OutboxEntry]:
        """Return a run's entries after a number; stops before a corrupt one, or raises if that is the first.

        ``files_alone``: only the entries of a lane for files: END and FILES.
        """
        entries: list[OutboxEntry] = []
        sql = _FILES_AFTER if files_alone else _AFTER
        for found, kind, records, crc, payload in self._database.slice(sql, (run, number), limit_bytes):
            if record_checksum((run, found, kind, records), payload) == crc:
                entries.append(OutboxEntry(found, EntryKind(kind), payload))
            elif entries:
                break
            else:
                raise JournalCorrupt(f"entry {found} of run {run}'s outbox does not match its checksum")
        return entries

    # ---- cursors ----

    def put_cursor(self, row: CursorRow) -> None:
        """Store a cursor. A cursor never moves back, nor beyond the last entry."""
        before = self._positions.get(row.run, {}).get(row.backend, 0)
        last = self._last_number.get(row.run, 0)
        if not before <= row.position <= last:
            raise JournalError(
                f"run {row.run}: the cursor of {row.backend} cannot go from {before} to {row.position}"
                f" of {last} entries"
            )
        counts_records = not is_files_lane(row.backend)
        if counts_records and row.delivered_records + row.set_aside > self._records.get(row.run, 0):
            raise JournalError(
                f"run {row.run}: {row.backend} cannot have had {row.delivered_records} records and "
                f"{row.set_aside} set aside of {self._records.get(row.run, 0)}"
            )
        numbers = (row.run, row.backend, row.position, row.delivered_records, row.set_aside)
        self._database.execute(_PUT_CURSOR, (*numbers, _cursor_checksum(row), row.state))
        self._positions.setdefault(row.run, {})[row.backend] = row.position

    def backlog(self, run: int) -> Backlog:
        """Return the counts of the run's outbox, and all its cursors."""
        cursors = self._cursors(run)
        entries, records = self._last_number.get(run, 0), self._records.get(run, 0)
        return Backlog(entries, records, tuple(cursors), self._last_files.get(run, 0))

    def boundary(self, run: int) -> int:
        """Return the number up to which no cursor needs an entry; FOREVER without cursors."""
        last_files = self._last_files.get(run, 0)
        needed = (
            position
            for backend, position in self._positions.get(run, {}).items()
            # A lane for files that has all of them needs none of the later records.
            if not is_files_lane(backend) or position < last_files
        )
        return min(needed, default=FOREVER)

    def _cursors(self, run: int) -> list[CursorRow]:
        cursors = []
        for *values, crc in self._database.all(_CURSORS, (run,)):
            row = CursorRow(*values)
            if _cursor_checksum(row) != crc:
                raise JournalCorrupt(
                    f"the cursor of {row.backend} in run {row.run} does not match its checksum"
                )
            cursors.append(row)
        return cursors


def _cursor_checksum(row: CursorRow) -> int:
    numbers = (row.run, row.position, row.delivered_records, row.set_aside)
    return record_checksum(numbers, row.backend.encode() + row.state)
