"""The MLflow backend's lane for files: tables, images and artifacts become artifacts of the MLflow run.

    tables/<key>.csv · images/<key>.<step>.<n>.<type> · <label>/<path>

The lane writes to the MLflow run that the other lane has created. It has no state: an artifact that is
uploaded again replaces itself. MLflow accepts artifacts of an ended run, so neither lane waits for the
other.

If artifacts are files of this host, this lane writes them itself, in small synced pieces. MLflow's own copy
of a large file would delay the store's database on the same disk.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tracker_daemon.backends.base import Backend, Commit, RunDescription, not_open
from tracker_daemon.backends.child.heartbeat import Heartbeat
from tracker_daemon.backends.item_files import FileItems, Layout, place_link
from tracker_daemon.backends.mlflow.connection import MlflowConnection
from tracker_daemon.backends.mlflow.run_lookup import find_run
from tracker_daemon.backends.mlflow.store_address import StoreAddress
from tracker_daemon.errors import BackendUnavailable
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

LAYOUT = Layout(tables="tables", images="images", artifacts="")


class MlflowItemsBackend(Backend):
    """Uploads a run's files. ``environ`` defaults to the process's environment, as for the other lane."""

    name: ClassVar[str] = "mlflow"
    separate_files: ClassVar[bool] = True

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._connection: MlflowConnection | None = None
        self._run: Run | None = None
        self._contents = Path()

    def open(self, run: RunDescription, state: bytes | None) -> None:  # noqa: ARG002 - it has none
        """Find the MLflow run; see :class:`Backend`."""
        connection = MlflowConnection(StoreAddress.of(self._environ, run.outdir), self._environ)
        found = find_run(connection, run)
        if found is None:
            raise BackendUnavailable(f"run {run.run_id} is not begun in {connection.address.shown} yet")
        self._connection, self._run, self._contents = connection, found, run.contents

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:
        """Upload the files of ``entries``; see :class:`Backend`."""
        heartbeat = Heartbeat(commit, bytes)
        for entry in entries:
            if entry.kind is EntryKind.FILES:
                with heartbeat.keep_beating():
                    self._upload(entry)
        return b""

    def close(self) -> None:
        """Drop the connection."""
        self._connection = self._run = None

    def location(self) -> str | None:
        """Return the URI of the run's artifacts."""
        return None if self._run is None else str(self._run.info.artifact_uri)

    def _upload(self, entry: OutboxEntry) -> None:
        if self._connection is None or self._run is None:
            raise not_open("MLflow")
        contents = self._contents
        self._connection.move_artifacts(
            self._run.info.artifact_uri, lambda repository: _put(repository, entry, contents)
        )


def _put(repository: ArtifactRepository, entry: OutboxEntry, contents: Path) -> None:
    from mlflow.store.artifact.local_artifact_repo import (  # noqa: PLC0415  # the package is optional
        LocalArtifactRepository,
    )

    if isinstance(repository, LocalArtifactRepository):
        place = Path(repository.artifact_dir)
        try:
            FileItems(place, contents, LAYOUT).store(entry)
        except OSError as error:
            raise BackendUnavailable(
                f"artifacts cannot be written to {place}: {error}; delivery tries again"
            ) from error
        return
    with tempfile.TemporaryDirectory(prefix="tracker-") as directory:
        if FileItems(Path(directory), contents, LAYOUT, place_link).store(entry):
            repository.log_artifacts(directory)
