"""Reclaim: deletes the rows that retention chooses, and stores the totals that must outlive them."""

from __future__ import annotations

from dataclasses import dataclass

from tracker_daemon.journal.database import Database
from tracker_daemon.journal.eventlog import EventLog
from tracker_daemon.journal.outbox import Outbox
from tracker_daemon.journal.retention import Candidate
from tracker_daemon.journal.rows import Reclaimed

_PUT_META = (
    "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
_ADD = (
    "INSERT INTO reclaimed (run, events, event_bytes, entries, entry_bytes, records, last_number)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run) DO UPDATE SET events = events + excluded.events,"
    " event_bytes = event_bytes + excluded.event_bytes, entries = entries + excluded.entries,"
    " entry_bytes = entry_bytes + excluded.entry_bytes, records = records + excluded.records,"
    " last_number = max(last_number, excluded.last_number)"
)


@dataclass(slots=True)
class _RunLoss:
    """The rows of one run that one call deleted."""

    events: int = 0
    event_bytes: int = 0
    entries: int = 0
    entry_bytes: int = 0
    records: int = 0
    last_number: int = 0


class Reclaimer:
    """Deletes history beyond its budgets: events, and outbox entries, which have a share of their own."""

    def __init__(self, database: Database, log: EventLog, outbox: Outbox) -> None:
        self._database = database
        self._log = log
        self._outbox = outbox

    def reclaim(self) -> Reclaimed:
        """Delete the oldest reclaimable rows, a bounded number. Costs almost nothing if there is none."""
        events = self._log.retention.evict()
        entries = self._outbox.retention.evict()
        if events:
            # The last event itself may be deleted, and its position and tick must never be used again.
            counters = [("next_position", self._log.next_position), ("next_tick", self._log.next_tick)]
            self._database.execute_many(_PUT_META, counters)
        if events or entries:
            self._record(events, entries)
        return Reclaimed(
            len(events),
            sum(row.size for row in events),
            len(entries),
            sum(row.size for row in entries),
            bool(self._log.retention.excess_bytes or self._outbox.retention.excess_bytes),
        )

    def reclaimed(self, run: int) -> Reclaimed:
        """Return what was deleted of one run since it began."""
        row = self._database.first(
            "SELECT events, event_bytes, entries, entry_bytes FROM reclaimed WHERE run = ?", (run,)
        )
        return Reclaimed(*row) if row else Reclaimed()

    def _record(self, events: list[Candidate], entries: list[Candidate]) -> None:
        losses: dict[int, _RunLoss] = {}
        for row in events:
            loss = losses.setdefault(row.run, _RunLoss())
            loss.events += 1
            loss.event_bytes += row.size
        for row in entries:
            loss = losses.setdefault(row.run, _RunLoss())
            loss.entries += 1
            loss.entry_bytes += row.size
            loss.records += row.records
            loss.last_number = max(loss.last_number, row.key)
        rows = [
            (
                run,
                loss.events,
                loss.event_bytes,
                loss.entries,
                loss.entry_bytes,
                loss.records,
                loss.last_number,
            )
            for run, loss in losses.items()
        ]
        self._database.execute_many(_ADD, rows)
