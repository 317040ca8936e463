"""The CSV backend: ``metrics.csv`` and ``config.json`` in the run's directory, with each record once.

The state is (directory, epoch, position). A directory has an id of its own, which it keeps when its files are
moved. The files are durable before a state that reflects them is returned. If the journal is in a later epoch
than the state, the journal has lost data. The file may then rightly hold more than the state says, so nothing
is truncated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.base import Backend, Commit, RunDescription, not_open
from tracker_daemon.backends.column_names import ColumnNames
from tracker_daemon.backends.csv.config_history import append_history
from tracker_daemon.backends.csv.config_json import merge_config
from tracker_daemon.backends.csv.format import block_columns, column_name, format_block, is_contested
from tracker_daemon.backends.csv.items import CsvItemsBackend
from tracker_daemon.backends.csv.metrics_file import MetricsCsv, Position
from tracker_daemon.backends.decoding import read_block, read_config, read_state
from tracker_daemon.files.file_errors import translated
from tracker_daemon.files.own_files import OwnFiles
from tracker_daemon.files.run_directory import CONFIG_HISTORY_FILE, KnownDirectory, claim_directory
from tracker_daemon.outbox.entries import CONFIGS, EntryKind, OutboxEntry
from tracker_protocol.run_files import CONFIG_FILE, METRICS_FILE


class _State(msgspec.Struct, frozen=True):
    directory: str
    directory_id: str
    epoch: int
    position: Position
    owners: dict[str, str] = {}
    """The metric of each column that two metrics could have."""


class CsvBackend(Backend):
    """Writes a run's records to ``metrics.csv`` and its configuration to ``config.json``."""

    name = "csv"
    separate_files = True
    place_in_run = METRICS_FILE

    def __init__(self) -> None:
        self._run: RunDescription | None = None
        self._directory = Path()
        self._directory_id = ""
        self._files: OwnFiles | None = None
        self._metrics: MetricsCsv | None = None
        self._columns = _columns(None)

    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Claim the run's directory and make its file agree with ``state``; see :class:`Backend`."""
        self.close()
        self._run = run
        self._directory = run.outdir
        known = read_state(state, _State, "CSV")
        with self._translated_errors():
            before = KnownDirectory(_path(known.directory), known.directory_id) if known else None
            claimed = claim_directory(run.place, known=before or run.known_directory)
            self._directory, self._directory_id = claimed.path, claimed.directory_id
            self._files = OwnFiles(claimed.path, run.run_id)
            self._files.name(METRICS_FILE)
            # The state says nothing of the files in another directory than its own.
            here = known if known and known.directory_id == claimed.directory_id else None
            may_truncate = here is not None and here.epoch >= run.epoch
            position = here.position if here else None
            self._columns = _columns(here)
            self._metrics = MetricsCsv(self._directory, position, may_truncate=may_truncate)

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:
        """Append the records, merge the configurations and return the state; see :class:`Backend`."""
        blocks = [read_block(entry) for entry in entries if entry.kind is EntryKind.RECORDS]
        changes = [change for entry in entries for change in _changes(entry)]
        configs = [read_config(entry) for entry in entries if entry.kind in CONFIGS]
        with self._translated_errors():
            if blocks:
                self._append(blocks, commit)
            if configs:
                self._merge(configs)
            if changes:
                append_history(self._named(CONFIG_HISTORY_FILE), changes)
            return self._state(self._opened().position)

    def files_backend(self) -> Backend:
        """Return the backend that writes tables, images and artifacts into the same directory."""
        return CsvItemsBackend()

    def close(self) -> None:
        """Close the file."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None

    def location(self) -> str | None:
        """Return the path of ``metrics.csv``; None while the backend is not open."""
        return str(self._metrics.path) if self._metrics is not None else None

    def handles(self) -> Mapping[str, str]:
        """Return the path of ``metrics.csv``."""
        path = self.location()
        return {"path": path} if path else {}

    def _opened(self) -> MetricsCsv:
        if self._metrics is None:
            raise not_open("CSV")
        return self._metrics

    def _merge(self, configs: Sequence[dict[str, Any]]) -> None:
        files, path = self._own_files(), self._named(CONFIG_FILE)
        merge_config(path, configs, lambda data: files.announce(path, data))

    def _named(self, file: str) -> Path:
        """Return the path for one of the run's files, which the manifest names from now on."""
        return self._own_files().claim([file])[0]

    def _own_files(self) -> OwnFiles:
        if self._files is None:
            raise not_open("CSV")
        return self._files

    def _append(self, blocks: Sequence[RecordBlock], commit: Commit) -> None:
        metrics = self._opened()
        if metrics.moved():
            metrics.close()
            metrics = self._metrics = MetricsCsv(self._directory, metrics.position, may_truncate=True)
        column_of = self._columns.of
        header = metrics.header.extended(name for block in blocks for name in block_columns(block, column_of))
        metrics.prepare(header, lambda position: commit(self._state(position)))
        metrics.append([format_block(block, header, column_of) for block in blocks])

    def _state(self, position: Position) -> bytes:
        epoch = self._run.epoch if self._run is not None else 1
        state = _State(_text(self._directory), self._directory_id, epoch, position, self._columns.owners)
        return msgspec.msgpack.encode(state)

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Turn an OSError into a BackendError, and close: the file may no longer agree with this object."""
        try:
            yield
        except OSError as error:
            self.close()
            raise translated(error, self._directory) from error


def _columns(state: _State | None) -> ColumnNames:
    return ColumnNames(column_name, state.owners if state else None, is_contested=is_contested)


def _changes(entry: OutboxEntry) -> list[dict[str, Any]]:
    changes: list[dict[str, Any]] = []
    if entry.kind is EntryKind.CONFIG_CHANGES:
        changes = json.loads(entry.payload)  # the daemon itself wrote this JSON
    return changes


def _text(path: Path) -> str:
    """Return a path in UTF-8 as a text; a script's file-system encoding may be another, such as ASCII."""
    return os.fsencode(path).decode()


def _path(text: str) -> Path:
    return Path(os.fsdecode(text.encode()))
