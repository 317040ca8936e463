"""The event log: events in their global order, and each run's latest snapshot."""

from __future__ import annotations

from collections.abc import Sequence

from tracker_daemon.errors import JournalCorrupt, JournalError
from tracker_daemon.journal.database import Database, Row
from tracker_daemon.journal.event import (
    SEQUENCE_MAX,
    Event,
    EventKind,
    StoredEvent,
    event_checksum,
    record_checksum,
)
from tracker_daemon.journal.retention import Retention, weight

_INSERT = (
    "INSERT INTO event (position, run, tick, time_ns, kind, stream, sequence, size, crc, payload)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_AFTER = (
    "SELECT position, tick, time_ns, run, kind, stream, sequence, crc, payload FROM event"
    " WHERE run = ? AND position > ? ORDER BY position"
)
_PUT_SNAPSHOT = (
    "INSERT INTO snapshot (run, position, crc, payload) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (run) DO UPDATE SET position = excluded.position, crc = excluded.crc,"
    " payload = excluded.payload"
)
_KINDS = {int(kind): kind for kind in EventKind}


class EventLog:
    """The tables ``event`` and ``snapshot``."""

    def __init__(self, database: Database, history_bytes: int) -> None:
        self._database = database
        self.retention = Retention(database, "event", "position", history_bytes)
        self.load()

    def load(self) -> None:
        """Load the next position, the next tick and the snapshots' positions from the database."""
        rows = self._database.all("SELECT key, value FROM meta WHERE key IN ('next_position', 'next_tick')")
        kept: dict[str, int] = dict(rows)
        last = self._database.first("SELECT position, tick FROM event ORDER BY position DESC LIMIT 1")
        position, tick = last or (0, 0)
        self.next_position: int = max(position + 1, kept.get("next_position", 1))
        self.next_tick: int = max(tick + 1, kept.get("next_tick", 1))
        self._snapshots: dict[int, int] = dict(self._database.all("SELECT run, position FROM snapshot"))

    # ---- events ----

    def append(self, events: Sequence[Event], tick: int, time_ns: int) -> list[int]:
        """Store events at the next positions; return the positions."""
        self._require_storable(events, tick)
        first = self.next_position
        self._database.execute_many(_INSERT, _event_rows(events, first, tick, time_ns))
        for position, event in enumerate(events, first):
            self.retention.added(event.run, position, weight(event.payload))
        self.next_position = first + len(events)
        self.next_tick = max(self.next_tick, tick + 1)
        return list(range(first, self.next_position))

    def after(self, run: int, position: int, limit_bytes: int) -> list[StoredEvent]:
        """Return a run's events after a position; stops before a corrupt one, raises if that is the first."""
        events: list[StoredEvent] = []
        for row in self._database.slice(_AFTER, (run, position), limit_bytes):
            event = _stored_event(row)
            if event is not None:
                events.append(event)
            elif events:
                break
            else:
                raise JournalCorrupt(f"the event at position {row[0]} does not match its checksum", row[0])
        return events

    def _require_storable(self, events: Sequence[Event], tick: int) -> None:
        if tick < self.next_tick - 1:
            raise JournalError(f"tick {tick} is over: the journal is at {self.next_tick - 1}")
        for event in events:
            if not 0 <= event.sequence < SEQUENCE_MAX:
                raise JournalError(f"sequence {event.sequence} cannot be stored")

    # ---- snapshots ----

    def put_snapshot(self, run: int, position: int, payload: bytes) -> None:
        """Replace the run's snapshot by one that covers its events up to ``position``."""
        if not self.snapshot_position(run) <= position < self.next_position:
            raise JournalError(
                f"run {run}: a snapshot at {position} is not between the last one, at "
                f"{self.snapshot_position(run)}, and the last event, at {self.next_position - 1}"
            )
        crc = record_checksum((run, position), payload)
        self._database.execute(_PUT_SNAPSHOT, (run, position, crc, payload))
        self._snapshots[run] = position

    def snapshot(self, run: int) -> tuple[int, bytes] | None:
        """Return the run's snapshot: the position that it covers, and its payload."""
        row = self._database.first("SELECT position, crc, payload FROM snapshot WHERE run = ?", (run,))
        if row is None:
            return None
        position, crc, payload = row
        if record_checksum((run, position), payload) != crc:
            raise JournalCorrupt(f"the snapshot of run {run} does not match its checksum")
        return position, payload

    def snapshot_position(self, run: int) -> int:
        """Return the position that the run's snapshot covers; 0 when there is none."""
        return self._snapshots.get(run, 0)


def _event_rows(events: Sequence[Event], first: int, tick: int, time_ns: int) -> list[tuple[object, ...]]:
    return [
        (
            position,
            event.run,
            tick,
            time_ns,
            int(event.kind),
            event.stream,
            event.sequence,
            weight(event.payload),
            event_checksum(event, position, tick, time_ns),
            event.payload,
        )
        for position, event in enumerate(events, first)
    ]


def _stored_event(row: Row) -> StoredEvent | None:
    """Return the event of a row; None if the row does not match its checksum."""
    position, tick, time_ns, run, kind, stream, sequence, crc, payload = row
    known = _KINDS.get(kind)
    if known is not None:
        event = StoredEvent(run, known, stream, sequence, payload, position, tick, time_ns)
        if event_checksum(event, position, tick, time_ns) == crc:
            return event
    return None
