"""Runs in the journal: restored at the daemon's start, or when a client returns to a forgotten run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tracker_daemon.journal.access import JournalAccess
from tracker_daemon.journal.rows import Backlog, RunRow, StreamRow
from tracker_daemon.journal.store import Journal
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Run
from tracker_protocol.v1 import tracker_pb2 as pb


@dataclass(frozen=True, slots=True)
class RestoredRun:
    """A run that was read from the journal, with the entries that its backends do not have yet."""

    run: Run
    backlog: Backlog


class StoredRuns:
    """Restores runs of the journal into ``registry``. On the event loop."""

    def __init__(self, registry: Registry, on_journal: JournalAccess) -> None:
        self._registry = registry
        self._on_journal = on_journal

    def restore_all(self, journal: Journal) -> list[RestoredRun]:
        """Restore every run that the journal lists: running ones, and ended ones not delivered in full.

        Called before the recorder starts, since it reads the journal on the calling thread.
        """
        return [self._restore(*_read(journal, row)) for row in journal.runs()]

    async def restore_forgotten(self, hello: pb.Hello) -> RestoredRun | None:
        """Restore the forgotten run that ``hello`` names; None if it names no such run."""
        row_id = self._registry.forgotten.row_id(hello)
        if row_id is None:
            return None

        def read(journal: Journal) -> tuple[RunRow, list[StreamRow], Backlog]:
            return _read(journal, next(row for row in journal.runs() if row.id == row_id))

        found = await self._on_journal(read)
        if self._registry.forgotten.row_id(hello) is None:  # another client's Hello has restored it meanwhile
            return None
        return self._restore(*found)

    def _restore(self, row: RunRow, streams: list[StreamRow], backlog: Backlog) -> RestoredRun:
        run = self._registry.restore(row, streams)
        run.live.view = replace(run.live.view, last_entry=backlog.entries, last_files=backlog.last_files)
        return RestoredRun(run, backlog)


def _read(journal: Journal, row: RunRow) -> tuple[RunRow, list[StreamRow], Backlog]:
    return row, journal.streams(row.id), journal.backlog(row.id)
