"""A ledger that plays the journal for a CSV backend."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.csv.backend import CsvBackend
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry


@dataclass
class Ledger:
    """Plays the journal for one CSV run: its outbox and its cursor."""

    outdir: Path
    run_id: str = "run-a"
    epoch: int = 1
    entries: list[OutboxEntry] = field(default_factory=list)
    position: int = 0
    state: bytes | None = None
    path: Path | None = None

    def add(self, content):
        if isinstance(content, RecordBlock):
            kind, payload = EntryKind.RECORDS, content.to_bytes()
        else:
            kind, payload = EntryKind.CONFIG, json.dumps(content).encode()
        self.entries.append(OutboxEntry(len(self.entries) + 1, kind, payload))

    def opened(self):
        backend = CsvBackend()
        run = RunDescription(self.run_id, "project", "name", self.outdir, self.epoch)
        backend.open(run, self.state)
        return backend

    def set_state(self, state):
        self.state = state

    def deliver(self, backend, count, *, commit=True):
        """Deliver the next ``count`` entries; without ``commit`` the cursor does not hear of it."""
        entries = self.entries[self.position : self.position + count]
        state = backend.deliver(entries, self.set_state)
        if commit:
            self.state = state
            self.position += len(entries)

    def deliver_all(self):
        backend = self.opened()
        path = Path(backend.location())
        self.deliver(backend, len(self.entries))
        backend.close()
        return path
