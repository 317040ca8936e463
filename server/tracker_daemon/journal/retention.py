"""Retention: chooses the rows of one table to delete once they exceed a budget, the oldest first.

Each run has a *boundary*: rows up to the boundary are reclaimable and kept only as history. The bytes of all
reclaimable rows are a running total, so it costs nothing to find out that nothing is to be done. Eviction
scans the table from its oldest row and passes over rows that are still needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tracker_daemon.journal.database import Database

FOREVER = 2**63 - 1
"""The boundary of a run whose rows are all reclaimable."""

EVICTED_ROWS_MAX = 4096
EVICTED_BYTES_MAX = 32 * 1024 * 1024
"""The most that one call deletes, about: it is part of a commit and must not delay it much."""
_SCANNED_ROWS_MAX = 16_384
_CHUNK_ROWS = 256
_ROW_BYTES = 80
"""The bytes of a row and its index entry without the payload, about."""


def weight(payload: bytes) -> int:
    """Return the bytes that a row counts as. Rows with empty payloads count too, so that they are bounded."""
    return len(payload) + _ROW_BYTES


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row that eviction considers."""

    position: int
    run: int
    key: int
    size: int
    records: int


class Retention:
    """The reclaimable rows of ``table``. Boundaries are compared with the column ``key``."""

    def __init__(
        self, database: Database, table: str, key: str, budget_bytes: int, records: str = "0"
    ) -> None:
        self._database = database
        self._budget_bytes = budget_bytes
        # The names in these statements are our own.
        self._between = (
            f"SELECT coalesce(sum(size), 0) FROM {table}"  # noqa: S608
            f" WHERE run = ? AND {key} > ? AND {key} <= ?"
        )
        self._first_after = f"SELECT position FROM {table} WHERE run = ? AND {key} > ? ORDER BY {key} LIMIT 1"  # noqa: S608
        self._scan = (
            f"SELECT position, run, {key}, size, {records} FROM {table}"  # noqa: S608
            f" WHERE position > ? ORDER BY position LIMIT {_CHUNK_ROWS}"
        )
        self._delete = f"DELETE FROM {table} WHERE position = ?"  # noqa: S608
        self.reclaimable_bytes = 0
        self.load({})

    def load(self, boundaries: dict[int, int]) -> None:
        """Load the running totals from the database."""
        self._boundaries = dict(boundaries)
        self._scanned_to = 0
        self.reclaimable_bytes = sum(
            self._weigh(run, 0, boundary) for run, boundary in boundaries.items() if boundary > 0
        )

    def added(self, run: int, key: int, size: int) -> None:
        """Count a row that was inserted."""
        if key <= self._boundaries.get(run, 0):
            self.reclaimable_bytes += size

    def move_boundary(self, run: int, boundary: int) -> None:
        """Set the run's boundary. It may move back: rows that are not deleted yet are then needed again."""
        before = self._boundaries.get(run, 0)
        self._boundaries[run] = boundary
        if boundary < before:
            self.reclaimable_bytes -= self._weigh(run, boundary, before)
        elif boundary > before:
            self.reclaimable_bytes += self._weigh(run, before, boundary)
            first = self._database.first(self._first_after, (run, before))
            if first is not None:
                self._scanned_to = min(self._scanned_to, first[0] - 1)

    @property
    def excess_bytes(self) -> int:
        """The bytes by which the reclaimable rows exceed the budget."""
        return max(0, self.reclaimable_bytes - self._budget_bytes)

    def evict(self) -> list[Candidate]:
        """Delete the oldest reclaimable rows until the budget is met or the call's bound is reached."""
        evicted: list[Candidate] = []
        if not self.excess_bytes:
            return evicted
        evicted_bytes = 0
        for row in self._oldest():
            evicted_bytes += self._consider(row, evicted)
            enough = len(evicted) >= EVICTED_ROWS_MAX or evicted_bytes >= EVICTED_BYTES_MAX
            if enough or not self.excess_bytes:
                break
        self._database.execute_many(self._delete, [(row.position,) for row in evicted])
        return evicted

    def _oldest(self) -> Iterator[Candidate]:
        """Yield rows after the end of the last scan, at most a call's bound of them."""
        for _ in range(_SCANNED_ROWS_MAX // _CHUNK_ROWS):
            rows = self._database.all(self._scan, (self._scanned_to,))
            for row in rows:
                yield Candidate(*row)
            if len(rows) < _CHUNK_ROWS:
                return

    def _consider(self, row: Candidate, evicted: list[Candidate]) -> int:
        """Add ``row`` to ``evicted`` if it is reclaimable; return how many bytes that frees."""
        self._scanned_to = row.position
        if row.key > self._boundaries.get(row.run, 0):
            return 0
        evicted.append(row)
        self.reclaimable_bytes -= row.size
        return row.size

    def _weigh(self, run: int, after: int, up_to: int) -> int:
        (size,) = self._database.one(self._between, (run, after, up_to))
        return int(size)
