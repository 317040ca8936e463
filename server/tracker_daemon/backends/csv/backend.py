"""The CSV backend: ``metrics.csv`` and ``config.json`` in the run's directory, each record once.

The state is (subdirectory, epoch, position). The files are made durable before a state that
reflects them is returned. In a later epoch of the journal than the state's, the journal has lost
something, so a file may rightly hold more than the state says: nothing is cut off then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tracker_daemon.aggregation.shared.record import RecordBlock
from tracker_daemon.backends.base import Backend, Commit, RunDescription
from tracker_daemon.backends.csv.config_history import append_history
from tracker_daemon.backends.csv.config_json import merge_config
from tracker_daemon.backends.csv.format import block_columns, format_block
from tracker_daemon.backends.csv.items import CsvItemsBackend
from tracker_daemon.backends.csv.metrics_file import MetricsCsv, Position
from tracker_daemon.backends.decoding import read_block, read_state
from tracker_daemon.errors import BackendUnavailable, PoisonEntry
from tracker_daemon.files.file_errors import translated
from tracker_daemon.files.run_directory import claim_directory
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry

CONFIG_FILE = "config.json"
HISTORY_FILE = "config_history.jsonl"


class _State(msgspec.Struct, frozen=True):
    subdirectory: str
    epoch: int
    position: Position


class CsvBackend(Backend):
    """Writes a run's records to ``metrics.csv`` and its configuration to ``config.json``."""

    name = "csv"
    separate_files = True

    def __init__(self) -> None:
        self._run: RunDescription | None = None
        self._subdirectory = ""
        self._directory = Path()
        self._table: MetricsCsv | None = None

    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Claim the run's directory and bring its file to ``state``; see :class:`Backend`."""
        self.close()
        self._run = run
        self._directory = run.outdir
        known = read_state(state, _State, "CSV")
        with self._translated_errors():
            subdirectory = claim_directory(run.outdir, run.run_id, known.subdirectory if known else None)
            self._subdirectory, self._directory = subdirectory, run.outdir / subdirectory
            # Another directory than the state's holds nothing that the state speaks of.
            here = known if known and known.subdirectory == subdirectory else None
            may_truncate = here is not None and here.epoch >= run.epoch
            position = here.position if here else None
            self._table = MetricsCsv(self._directory, position, may_truncate=may_truncate)

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:
        """Append the records, merge the configurations and return the state; see :class:`Backend`.

        After an error the backend has to be opened again with the last committed state.
        """
        blocks = [read_block(entry) for entry in entries if entry.kind is EntryKind.RECORDS]
        changes = [change for entry in entries for change in _changes(entry)]
        configs = [_config(entry) for entry in entries if entry.kind is EntryKind.CONFIG]
        with self._translated_errors():
            if blocks:
                self._append(blocks, commit)
            if configs:
                merge_config(self._directory / CONFIG_FILE, configs)
            if changes:
                append_history(self._directory / HISTORY_FILE, changes)
            return self._state(self._opened_table().position)

    def files_backend(self) -> Backend:
        """Writes tables, images and artifacts beside them."""
        return CsvItemsBackend()

    def close(self) -> None:
        """Let go of the file."""
        if self._table is not None:
            self._table.close()
            self._table = None

    def location(self) -> str | None:
        """The path of ``metrics.csv``; None before the directory is chosen."""
        return str(self._table.path) if self._table is not None else None

    def _opened_table(self) -> MetricsCsv:
        if self._table is None:
            raise BackendUnavailable("the CSV backend is not open; open it with the last committed state")
        return self._table

    def _append(self, blocks: Sequence[RecordBlock], commit: Commit) -> None:
        table = self._opened_table()
        if table.moved():
            table.close()
            table = self._table = MetricsCsv(self._directory, table.position, may_truncate=True)
        header = table.header.extended(name for block in blocks for name in block_columns(block))
        table.prepare(header, lambda position: commit(self._state(position)))
        table.append([format_block(block, header) for block in blocks])

    def _state(self, position: Position) -> bytes:
        epoch = self._run.epoch if self._run is not None else 1
        return msgspec.msgpack.encode(_State(self._subdirectory, epoch, position))

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Turn the operating system's errors into the backend's; closes, so that one must reopen."""
        try:
            yield
        except OSError as error:
            self.close()
            raise translated(error, self._directory) from error


def _changes(entry: OutboxEntry) -> list[dict[str, Any]]:
    changes: list[dict[str, Any]] = []
    if entry.kind is EntryKind.CONFIG_CHANGES:
        changes = json.loads(entry.payload)  # the fold's own
    return changes


def _config(entry: OutboxEntry) -> dict[str, Any]:
    try:
        config = json.loads(entry.payload)
    except ValueError as error:
        raise PoisonEntry(f"outbox entry {entry.number} holds no configuration: {error}") from error
    if not isinstance(config, dict):
        raise PoisonEntry(f"outbox entry {entry.number} holds a configuration that is no JSON object")
    return config
