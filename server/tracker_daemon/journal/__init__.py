"""The journal: one ordered, durable log of everything that happened, with the outbox and its cursors.

Guarantees
----------
* A transaction for which ``commit()`` returned survives ``kill -9`` and power loss. One for which it raised
  was never acknowledged, and nothing is written through that connection again.
* Positions rise by one over all runs. Entry numbers rise by one from 1 within a run. Neither is ever used
  twice, even if everything was reclaimed.
* Events of the kinds BATCH, REJECTED and GAP use up sequences. A stream's ``next_sequence`` moves in their
  transaction. So a duplicate is recognised even if its event was reclaimed long ago.
* A record whose bytes changed on disk is reported as JournalCorrupt, never returned.
* An event is not reclaimed while a replay needs it: after the run's snapshot, while the run is live. An
  outbox entry is not reclaimed before every cursor has passed it.
* One state directory has at most one daemon, on one host or several.

On disk
-------
``<state>/journal.sqlite3`` (and its ``-wal``): SQLite, one connection, WAL with an exclusive lock, so
that no shared memory is needed and network file systems serve. Its tables are in ``schema``. SQLite has no
page checksums, so events, snapshots, outbox entries and cursors each carry a CRC-32 over their numbers
and their payload. ``<state>/lock`` and ``<state>/owner.json`` belong to ``lock``.

A position is the event's row id. The next position is the last row's plus one. If reclaim deletes the last
row, it writes the next position to ``meta`` in the same transaction. So no other commit writes a counter.
Ticks work in the same way, and so do entry numbers, with the table ``reclaimed``.

Recovery
--------
Opening replays SQLite's WAL and then demands a complete checkpoint. A failed commit may be visible in the
page cache and yet not be on disk; the checkpoint's fsync settles that before anything is acknowledged. Then
a few queries over indexes load the state in memory (next position, next sequences, running totals). A
rollback loads it again in the same way. The fold's own state is the snapshot plus ``events_after`` it.

Which file does what
--------------------
* ``store``: the Journal, its only public class.
* ``database``: the connection, and the one place where SQLite's errors are translated.
* ``schema``: the tables.
* ``rows``, ``event``: rows of the tables as value objects.
* ``registry``: runs and streams. ``eventlog``: events and snapshots. ``outbox``: entries and cursors.
* ``contents``: the contents that entries need.
* ``access``: the protocols by which other threads reach it.
* ``retention``: chooses the rows to delete, and their order. ``reclaim``: deletes them.
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
