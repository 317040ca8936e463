"""A journal in a fresh directory with a run, a stream and short-hands; its transactions as blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracker_daemon.journal import CursorRow, Event, EventKind, Gap, Journal, RunRow, StoredEvent, StreamRow

HISTORY_BYTES = 1 << 30
STREAM = b"s" * 16


@contextmanager
def transaction(journal: Journal) -> Iterator[None]:
    """Commit at the end of the block, or roll back and raise the block's error."""
    journal.begin()
    try:
        yield
    except BaseException:  # whatever it was: clean up, and let it go on
        journal.rollback()
        raise
    journal.commit()


def cursor_of(journal: Journal, run: int, backend: str) -> CursorRow | None:
    """Return one backend's cursor in a run, or None."""
    return next((cursor for cursor in journal.backlog(run).cursors if cursor.backend == backend), None)


@dataclass
class Scene:
    """One state directory, its journal (reopened at will) and a run with one stream in it."""

    directory: Path
    history_bytes: int = HISTORY_BYTES
    opening: dict[str, Any] = field(default_factory=dict)
    """Further arguments of ``Journal.open``."""
    journal: Journal = field(init=False)
    run: int = field(init=False)

    def __post_init__(self) -> None:
        self.journal = self._open()
        with transaction(self.journal):
            self.run = self.add_run("first")
            self.add_stream(STREAM)

    def _open(self) -> Journal:
        return Journal.open(self.directory, history_bytes=self.history_bytes, **self.opening)

    def reopen(self, history_bytes: int | None = None) -> Journal:
        self.journal.close()
        self.history_bytes = self.history_bytes if history_bytes is None else history_bytes
        self.journal = self._open()
        return self.journal

    def add_run(self, name: str) -> int:
        return self.journal.insert_run(RunRow(0, f"id-{name}", "launch", "project", name, 0, "/out", "{}"))

    def add_stream(self, stream: bytes, run: int | None = None) -> None:
        self.journal.insert_stream(StreamRow(stream, run or self.run, rank=0, attempt=1, host="h", pid=7))

    def append(self, *events: Event) -> list[int]:
        return self.journal.append(events, tick=self.journal.next_tick, time_ns=123)

    def batch(self, sequence: int, payload: bytes = b"", *, stream: bytes = STREAM) -> Event:
        return Event(self.run, EventKind.BATCH, stream, sequence, payload)

    def gap(self, sequence: int, to_sequence: int, points: int = 0) -> Event:
        return Event(self.run, EventKind.GAP, STREAM, sequence, Gap(to_sequence, points).to_bytes())

    def notice(self, payload: bytes = b"", run: int | None = None) -> Event:
        return Event(run or self.run, EventKind.NOTICE, b"", 0, payload)

    def events(self, run: int | None = None) -> list[StoredEvent]:
        return self.journal.events_after(run or self.run, 0, limit_bytes=1 << 40)

    def next_sequence(self) -> int:
        (stream,) = self.journal.streams(self.run)
        return stream.next_sequence

    def flip_byte_of(self, content: bytes) -> None:
        """Damage the one place of the closed journal's file that holds ``content``, and reopen it."""
        self.journal.close()
        path = self.directory / "journal.sqlite3"
        data = path.read_bytes()
        assert data.count(content) == 1
        at = data.index(content) + len(content) // 2
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        self.journal = self._open()
