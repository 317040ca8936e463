"""The CSV backend's lane for files: tables, images and artifacts, beside ``metrics.csv``.

The lane has no state: each file is written in one step, so a repeated delivery leaves each file once. The
lane that writes ``metrics.csv`` chooses the run's directory.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracker_daemon.backends.base import Backend, Commit, RunDescription, not_open
from tracker_daemon.backends.item_files import FileItems
from tracker_daemon.errors import BackendUnavailable
from tracker_daemon.files.file_errors import translated
from tracker_daemon.files.own_files import OwnFiles
from tracker_daemon.files.run_directory import find_directory
from tracker_daemon.outbox.entries import OutboxEntry


class CsvItemsBackend(Backend):
    """Writes a run's tables, images and artifacts into the run's directory."""

    name = "csv"
    separate_files = True
    place_in_run = ""

    def __init__(self) -> None:
        self._items: FileItems | None = None

    def open(self, run: RunDescription, state: bytes | None) -> None:  # noqa: ARG002 - it has none
        """Find the run's directory; see :class:`Backend`."""
        try:
            directory = find_directory(run.place, run.known_directory)
            if directory is None:
                raise BackendUnavailable(f"run {run.run_id} has no directory in {run.outdir} yet")
            own = OwnFiles(directory, run.run_id)
        except OSError as error:
            raise translated(error, run.outdir) from error
        self._items = FileItems(directory, run.contents, claim=own.claim)

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:  # noqa: ARG002 - the interface's
        """Write the files of ``entries``; see :class:`Backend`."""
        items = self._items
        if items is None:
            raise not_open("CSV")
        try:
            for entry in entries:
                items.store(entry)
        except OSError as error:
            raise translated(error, items.directory) from error
        return b""

    def close(self) -> None:
        """Forget the directory; each file is complete already."""
        self._items = None

    def location(self) -> str | None:
        """Return the run's directory."""
        return str(self._items.directory) if self._items is not None else None
