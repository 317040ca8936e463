"""The MLflow backend's lane for files: tables, images and artifacts as artifacts of the MLflow run.

    tables/<key>.csv · images/<key>.<step>.<n>.<type> · <label>/<path>

It writes to the run that the other lane has begun, and keeps no state: an artifact that is uploaded again
takes its own place. MLflow takes artifacts of a run that has ended, so neither lane waits for the other.

Where artifacts are files of this host it writes them itself, piece by piece: MLflow's copy of a large one
would have the store's database wait for it on the same disk.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tracker_daemon.backends.base import Backend, Commit, RunDescription
from tracker_daemon.backends.child.heartbeat import signs_of_life
from tracker_daemon.backends.item_files import FileItems, Layout, files_of, missing_content, read_item
from tracker_daemon.backends.mlflow.connection import MlflowConnection, StoreAddress
from tracker_daemon.backends.mlflow.run_lookup import existing_run
from tracker_daemon.errors import BackendUnavailable
from tracker_daemon.files.content_files import content_path
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

LAYOUT = Layout(tables="tables", images="images", artifacts="")


class MlflowItemsBackend(Backend):
    """Uploads a run's files. ``environ`` is the process's own by default, as for the other lane."""

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
        found = existing_run(connection, run)
        if found is None:
            raise BackendUnavailable(f"run {run.run_id} is not begun in {connection.address.shown} yet")
        self._connection, self._run, self._contents = connection, found, run.contents

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:
        """Upload the files of ``entries``; see :class:`Backend`."""
        for entry in entries:
            if entry.kind is EntryKind.FILES:
                with signs_of_life(commit, b""):
                    self._upload(entry)
        return b""

    def close(self) -> None:
        """Let go of the connection."""
        self._connection = self._run = None

    def location(self) -> str | None:
        """Where the artifacts go."""
        return None if self._run is None else str(self._run.info.artifact_uri)

    def _upload(self, entry: OutboxEntry) -> None:
        if self._connection is None or self._run is None:
            raise BackendUnavailable("the MLflow backend is not open; open it with the last committed state")
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
        if _stage(entry, contents, Path(directory)):
            repository.log_artifacts(directory)


def _stage(entry: OutboxEntry, contents: Path, directory: Path) -> bool:
    """Lay out an item's files in ``directory``, contents as links; whether there are any."""
    staged = False
    for file in files_of(read_item(entry), entry.number, contents, LAYOUT):
        target = directory / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.content is not None:
            content = content_path(contents, file.content.sha256)
            if not content.exists():
                raise missing_content(content)
            target.symlink_to(content)
        elif file.data is not None:
            target.write_bytes(file.data())
        staged = True
    return staged
