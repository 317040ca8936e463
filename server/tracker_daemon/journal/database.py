"""The one SQLite connection: its opening, its transactions, and the translation of its errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from tracker_daemon.errors import JournalCorrupt, JournalError
from tracker_daemon.journal.schema import (
    APPLICATION_ID,
    CHECKPOINT_EVERY_BYTES,
    CREATION_PRAGMAS,
    LAST_RELEASE_BY_SCHEMA,
    PRAGMAS,
    SCHEMA_VERSION,
    TABLES,
)

JOURNAL_FILE_NAME = "journal.sqlite3"
Row = tuple[Any, ...]
Parameters = Sequence[object]


class Database:
    """A connection that breaks for good at the first error that puts its commits in doubt.

    Every method raises JournalError (JournalCorrupt for a damaged file) and nothing of ``sqlite3``.
    """

    def __init__(self, path: Path, factory: type[sqlite3.Connection] = sqlite3.Connection) -> None:
        self.path = path
        self._broken: str | None = None
        try:
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, factory=factory
            )
        except sqlite3.Error as error:
            raise JournalError(f"cannot open the journal {path}: {error}") from error
        try:
            self._set_up()
        except BaseException:  # whatever it was: clean up, and raise it again
            self.close()
            raise

    # ---- opening ----

    def _set_up(self) -> None:
        # Before the first access to the file: then the WAL's index is in the heap, not in shared memory.
        self.execute("PRAGMA locking_mode=EXCLUSIVE")
        for pragma in CREATION_PRAGMAS:
            self.execute(pragma)
        (mode,) = self.one("PRAGMA journal_mode=WAL")
        if mode != "wal":
            raise JournalError(f"{self.path}: SQLite cannot use a WAL here (it chose {mode!r})")
        for pragma in PRAGMAS:
            self.execute(pragma)
        self._checkpoint_fully()
        self._check_version()
        (page_bytes,) = self.one("PRAGMA page_size")
        self.page_bytes: int = page_bytes
        self.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_EVERY_BYTES // page_bytes}")

    def _checkpoint_fully(self) -> None:
        busy, _, _ = self.one("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            raise JournalError(f"{self.path} could not be checkpointed: another process has it open")

    def _check_version(self) -> None:
        (application,) = self.one("PRAGMA application_id")
        (version,) = self.one("PRAGMA user_version")
        (tables,) = self.one("SELECT count(*) FROM sqlite_master")
        if tables == 0:
            self._create()
        elif application != APPLICATION_ID:
            raise JournalError(f"{self.path} is a database, but not a tracker-daemon's journal")
        elif version != SCHEMA_VERSION:
            last = LAST_RELEASE_BY_SCHEMA.get(version)
            writer = "the version that wrote it" if last is None else f"tracker-daemon {last}"
            raise JournalError(
                f"{self.path} has format {version}, and this tracker-daemon reads {SCHEMA_VERSION}; "
                f"deliver its data with `tracker-daemon sync` of {writer}, or use another --state-dir"
            )

    def _create(self) -> None:
        self.begin()
        for statement in TABLES:
            self.execute(statement)
        self.execute(f"PRAGMA application_id={APPLICATION_ID}")
        self.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        self.commit()

    # ---- transactions ----

    @property
    def in_transaction(self) -> bool:
        """True if ``begin`` was called, and neither ``commit`` nor ``rollback`` since."""
        return self._connection.in_transaction

    def begin(self) -> None:
        """Start a transaction that holds the write lock."""
        if self._broken is None and self.in_transaction:
            raise JournalError("a transaction is already open")
        self.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make the transaction durable. After an error the connection stays broken."""
        self.require_transaction()
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            # An error of any kind: the transaction may be on disk or not.
            self.fail(f"a commit failed: {error}", error)

    def rollback(self) -> None:
        """Undo the open transaction, if there is one."""
        if self.in_transaction:
            self.execute("ROLLBACK")

    def require_transaction(self) -> None:
        """Raise JournalError unless a transaction is open."""
        self._check()
        if not self.in_transaction:
            raise JournalError("the journal is written only between begin() and commit()")

    def fail(self, reason: str, cause: BaseException | None = None) -> NoReturn:
        """Break the connection for good and raise a JournalError with the reason."""
        if self._broken is None:
            self._broken = reason
        raise JournalError(f"the journal {self.path} is broken: {reason}") from cause

    def close(self) -> None:
        """Close the connection; an open transaction is lost."""
        if self._broken is None:
            self._broken = "it is closed"
        # A connection that failed before may fail again. By now everything is committed or lost.
        with suppress(sqlite3.Error):
            self._connection.close()

    # ---- statements ----

    def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Run one statement to its end and return how many rows it changed."""
        self._check()
        try:
            cursor = self._connection.execute(sql, parameters)
            changed = cursor.rowcount
            cursor.close()
        except (sqlite3.Error, OverflowError) as error:
            self._translate(error)
        return changed

    def insert(self, sql: str, parameters: Parameters) -> int:
        """Run one INSERT and return the new row's id."""
        self._check()
        try:
            row_id = self._connection.execute(sql, parameters).lastrowid
        except (sqlite3.Error, OverflowError) as error:
            self._translate(error)
        assert row_id is not None
        return row_id

    def execute_many(self, sql: str, rows: Iterable[Parameters]) -> int:
        """Run one statement for each row and return how many rows were changed in all."""
        self._check()
        try:
            return self._connection.executemany(sql, rows).rowcount
        except (sqlite3.Error, OverflowError) as error:
            self._translate(error)

    def all(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Return all rows at once: an open reader would stop checkpoints."""
        self._check()
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except (sqlite3.Error, OverflowError) as error:
            self._translate(error)

    def first(self, sql: str, parameters: Parameters = ()) -> Row | None:
        """Return the first row, or None."""
        rows = self.all(sql, parameters)
        return rows[0] if rows else None

    def one(self, sql: str, parameters: Parameters = ()) -> Row:
        """Return the only row of a statement that always has one."""
        row = self.first(sql, parameters)
        if row is None:
            raise JournalError(f"{self.path}: no answer to {sql!r}")
        return row

    def slice(self, sql: str, parameters: Parameters, limit_bytes: int) -> list[Row]:
        """Return rows until their last columns (blobs) have ``limit_bytes``; at least one if there is any."""
        self._check()
        rows: list[Row] = []
        weight = 0
        try:
            cursor = self._connection.execute(sql, parameters)
            for row in cursor:
                rows.append(row)
                weight += len(row[-1])
                if weight >= limit_bytes:
                    break
            cursor.close()
        except (sqlite3.Error, OverflowError) as error:
            self._translate(error)
        return rows

    def _check(self) -> None:
        if self._broken is not None:
            raise JournalError(f"the journal {self.path} is broken: {self._broken}")

    def _translate(self, error: Exception) -> NoReturn:
        """Raise the journal's error for SQLite's; one of file or disk breaks the connection for good."""
        if isinstance(error, (sqlite3.OperationalError, sqlite3.InternalError)):
            self.fail(str(error), error)
        if type(error) is sqlite3.DatabaseError:  # SQLITE_CORRUPT and SQLITE_NOTADB
            self._broken = str(error)
            raise JournalCorrupt(f"the journal {self.path} is damaged: {error}") from error
        raise JournalError(f"the journal cannot take this: {error}") from error
