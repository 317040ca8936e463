"""The contents that the outbox still needs: a row for each content of an entry that some backend lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tracker_daemon.journal.database import Database

_USE = "INSERT INTO content_use (run, number, digest) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"


class ContentUses:
    """The table ``content_use``. ``boundary(run)`` is the last entry that every backend has passed."""

    def __init__(self, database: Database, boundary: Callable[[int], int]) -> None:
        self._database = database
        self._boundary = boundary
        self.load()

    def load(self) -> None:
        """Load from the database the runs that have uses."""
        self._runs = {run for (run,) in self._database.all("SELECT DISTINCT run FROM content_use")}

    def add(self, run: int, number: int, digests: Iterable[str]) -> None:
        """Store that entry ``number`` needs these contents."""
        self._database.execute_many(_USE, [(run, number, digest) for digest in digests])
        self._runs.add(run)

    def release(self) -> frozenset[str]:
        """Delete the uses that every backend has passed; return the digests that are still needed."""
        for run in sorted(self._runs):
            self._database.execute(
                "DELETE FROM content_use WHERE run = ? AND number <= ?", (run, self._boundary(run))
            )
        found = self._database.all("SELECT DISTINCT run, digest FROM content_use")
        self._runs = {run for run, _ in found}
        return frozenset(digest for _, digest in found)

    def pending(self, run: int, number: int) -> int:
        """Return the number of entries with contents after entry ``number``."""
        if run not in self._runs:
            return 0
        sql = "SELECT count(DISTINCT number) FROM content_use WHERE run = ? AND number > ?"
        (count,) = self._database.one(sql, (run, number))
        return int(count)
