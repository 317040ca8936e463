"""The journal: one ordered, durable log of everything that happened, and what hangs on it.

What may be relied on
---------------------
* What ``commit()`` returned from survives ``kill -9`` and power loss; what it raised from was
  never acknowledged, and nothing is written through that connection again.
* Positions rise by one over all runs, entry numbers rise by one from 1 within a run, and neither is
  ever given twice, not even after everything was reclaimed.
* A stream's ``next_sequence`` moves in the transaction that holds the events which use sequences up
  (BATCH, REJECTED, GAP), so a duplicate can be told although its event has long been reclaimed.
* A record whose bytes changed on disk is reported as JournalCorrupt, never returned.
* Nothing is reclaimed that a replay needs (events after the run's snapshot, while the run is
  live) or that a cursor has not passed.
* One daemon per state directory, on one host or several.

On disk
-------
``<state>/journal.sqlite3`` (and its ``-wal``): SQLite, one connection, WAL with an exclusive lock, so
that no shared memory is needed and network file systems serve. Its tables are in ``schema``. SQLite has no
page checksums, so events, snapshots, outbox entries and cursors each carry a CRC-32 over their numbers
and their payload. ``<state>/lock`` and ``<state>/owner.json`` belong to ``lock``.

A position is the event's row id. The next one is the last row's plus one, or, where reclaim deleted
the last row, what reclaim then wrote to ``meta`` in the same transaction: so no commit pays for a
counter. The same holds for ticks and, through the table ``reclaimed``, for entry numbers.

Recovery
--------
Opening replays SQLite's WAL and then demands a complete checkpoint: a commit that failed may show in the
page cache and not be on disk, and the checkpoint's fsync settles that before anything is
acknowledged. Then the in-memory state (next position, next sequences, running totals) is loaded by a few
queries over indexes; a rollback loads it again in the same way. The fold's own state is the snapshot plus
``events_after`` it.

Which file does what
--------------------
* ``store``: the Journal, its only public class.
* ``database``: the connection, and the one place where SQLite's errors are translated.
* ``schema``: the tables.
* ``rows``, ``event``: rows of the tables as value objects.
* ``registry``: runs and streams. ``eventlog``: events and snapshots. ``outbox``: entries and cursors.
* ``contents``: the contents that entries need.
* ``access``: the protocols by which other threads reach it.
* ``retention``: which rows may go, in which order. ``reclaim``: deletes them.
* ``lock``: the owner of the directory.
"""

from tracker_daemon.journal.event import Event, EventKind, Gap, StoredEvent
from tracker_daemon.journal.rows import Backlog, CursorRow, Reclaimed, RunRow, StreamRow
from tracker_daemon.journal.store import Journal

__all__ = [
    "Backlog",
    "CursorRow",
    "Event",
    "EventKind",
    "Gap",
    "Journal",
    "Reclaimed",
    "RunRow",
    "StoredEvent",
    "StreamRow",
]
