"""The journal's tables, and the settings of its database.

Sizes were measured with batches of 40 and 100 KiB. Pages of 32 KiB store such batches at 1.0 times their
size (pages of 64 KiB: 1.25 to 1.6 times). A checkpoint every 16 MiB keeps the longest commit short, without
a loss of throughput.
"""

from __future__ import annotations

SCHEMA_VERSION = 3
LAST_RELEASE_BY_SCHEMA = {1: "0.1.0", 2: "0.1.0"}
"""The last version of tracker-daemon that wrote each earlier format."""
APPLICATION_ID = 0x74726B64  # "trkd"

PAGE_BYTES = 32 * 1024
CACHE_BYTES = 64 * 1024 * 1024
CHECKPOINT_EVERY_BYTES = 16 * 1024 * 1024
WAL_KEPT_BYTES = 64 * 1024 * 1024
"""The next checkpoint cuts a larger WAL (after one huge snapshot) back to this size."""

CREATION_PRAGMAS = (
    f"PRAGMA page_size={PAGE_BYTES}",
    "PRAGMA auto_vacuum=INCREMENTAL",
)
"""Pragmas that must precede the first table. An existing database keeps the values that it was made with."""

PRAGMAS = (
    "PRAGMA synchronous=FULL",
    # On macOS fsync alone leaves the data in the drive's cache; elsewhere these two do nothing.
    "PRAGMA fullfsync=ON",
    "PRAGMA checkpoint_fullfsync=ON",
    # Debian's default would overwrite every freed page with zeros.
    "PRAGMA secure_delete=OFF",
    "PRAGMA temp_store=MEMORY",
    f"PRAGMA cache_size=-{CACHE_BYTES // 1024}",
    f"PRAGMA journal_size_limit={WAL_KEPT_BYTES}",
)

TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    """CREATE TABLE run (
        id INTEGER PRIMARY KEY, run_id TEXT NOT NULL, launch_key TEXT NOT NULL, run_key TEXT NOT NULL,
        project TEXT NOT NULL, name TEXT NOT NULL, ordinal INTEGER NOT NULL, outdir TEXT NOT NULL,
        options TEXT NOT NULL, attempt INTEGER NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL,
        created_ns INTEGER NOT NULL, ended_ns INTEGER NOT NULL, next_ordinal INTEGER NOT NULL)""",
    """CREATE TABLE stream (
        stream_id BLOB PRIMARY KEY, run INTEGER NOT NULL, rank INTEGER NOT NULL, attempt INTEGER NOT NULL,
        next_sequence INTEGER NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL,
        finished INTEGER NOT NULL, exit_code INTEGER NOT NULL, process BLOB NOT NULL,
        agent TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE event (
        position INTEGER PRIMARY KEY, run INTEGER NOT NULL, tick INTEGER NOT NULL,
        time_ns INTEGER NOT NULL, kind INTEGER NOT NULL, stream BLOB NOT NULL,
        sequence INTEGER NOT NULL, size INTEGER NOT NULL, crc INTEGER NOT NULL, payload BLOB NOT NULL)""",
    # Covers the sums of retention, which therefore never touch a payload's page.
    "CREATE INDEX event_by_run ON event (run, position, size)",
    """CREATE TABLE snapshot (
        run INTEGER PRIMARY KEY, position INTEGER NOT NULL, crc INTEGER NOT NULL, payload BLOB NOT NULL)""",
    """CREATE TABLE outbox (
        position INTEGER PRIMARY KEY, run INTEGER NOT NULL, number INTEGER NOT NULL,
        kind INTEGER NOT NULL, records INTEGER NOT NULL, size INTEGER NOT NULL,
        crc INTEGER NOT NULL, payload BLOB NOT NULL)""",
    "CREATE INDEX outbox_by_run ON outbox (run, number, size, records)",
    # The lanes for files read these alone, however many records lie between them: END and FILES.
    "CREATE INDEX outbox_files ON outbox (run, number) WHERE kind IN (3, 5)",
    """CREATE TABLE content_use (
        run INTEGER NOT NULL, number INTEGER NOT NULL, digest TEXT NOT NULL,
        PRIMARY KEY (run, number, digest)) WITHOUT ROWID""",
    """CREATE TABLE cursor (
        run INTEGER NOT NULL, backend TEXT NOT NULL, position INTEGER NOT NULL,
        delivered_records INTEGER NOT NULL, set_aside INTEGER NOT NULL,
        crc INTEGER NOT NULL, state BLOB NOT NULL, PRIMARY KEY (run, backend)) WITHOUT ROWID""",
    # Totals of deleted rows: for the status, and so that no number is ever used again.
    """CREATE TABLE reclaimed (
        run INTEGER PRIMARY KEY, events INTEGER NOT NULL, event_bytes INTEGER NOT NULL,
        entries INTEGER NOT NULL, entry_bytes INTEGER NOT NULL,
        records INTEGER NOT NULL, last_number INTEGER NOT NULL)""",
)
