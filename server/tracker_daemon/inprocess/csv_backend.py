"""``CSVBackend``: the script itself writes ``metrics.csv`` and ``config.json``."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tracker_client.backends.built_in import RunArguments
from tracker_client.settings.reading import RUN_ID_BYTES, project_of
from tracker_daemon.backends.base import RunDescription, RunStatus
from tracker_daemon.backends.csv.backend import CsvBackend
from tracker_daemon.backends.csv.items import CsvItemsBackend
from tracker_daemon.errors import BackendError
from tracker_daemon.files.file_errors import translated
from tracker_daemon.files.layout import Layout
from tracker_daemon.files.manifest import SCRIPT, add_to_manifest
from tracker_daemon.files.run_directory import CSV_LOCK, ClaimedDirectory, claim_directory, close_directory
from tracker_daemon.files.run_lock import RunLock
from tracker_daemon.files.run_story import beginning, ending
from tracker_daemon.inprocess.delivery import DeliveredBackend, Delivery
from tracker_daemon.inprocess.description import directory_of, rank_of
from tracker_daemon.inprocess.events import send_events_to_logging

logger = logging.getLogger("tracker_daemon")


class CSVBackend(DeliveredBackend):
    """Appends rows to ``metrics.csv`` in ``outdir``, and merges the configuration into ``config.json``.

    The files of an earlier run in ``outdir`` are moved to ``runs``. If that run still writes there, this
    run's files are in ``runs`` instead. Only rank 0 writes.

    Attributes:
        directory: the directory of the files; None on other ranks.
        attempt: the number of this attempt at the run, from 1; None on other ranks.
    """

    name = "csv"

    def __init__(
        self,
        outdir: str | os.PathLike[str] = ".",
        rank: int | None = None,
        *,
        run_id: str | None = None,
        described: RunDescription | None = None,
    ) -> None:
        """Open the file.

        Args:
            outdir: the directory; created if it is missing.
            rank: this process's rank; found from the launcher if None.
            run_id: the id of a run to begin or to continue in its own directory; None begins a new one.
            described: the run in place of ``outdir`` and ``run_id``.

        Raises:
            BackendError: the directory cannot be written, or another process writes the same run.
            RankUnknown: several processes run, and the rank of this one cannot be found.
        """
        self.directory: Path | None = None
        self.attempt: int | None = None
        if rank_of(rank) != 0:
            super().__init__(None)
            return
        claimed = _ClaimedRun(described or _described(_arguments(outdir, run_id)))
        self.directory, self.attempt = claimed.directory, claimed.attempt
        super().__init__(claimed.open())

    @property
    def _csv_path(self) -> Path:
        """The path of ``metrics.csv``; ``ezpz``'s ``History`` reads it, and sets it to move the file."""
        path = self._delivery.location() if self._delivery is not None else None
        if path is None:
            raise AttributeError("nothing is written here")
        return Path(path)

    @_csv_path.setter
    def _csv_path(self, path: object) -> None:
        """Do nothing: the file stays, since rows are appended to it and never written again."""

    @classmethod
    def for_run(cls, run: RunArguments, options: Mapping[str, Any]) -> CSVBackend:  # noqa: ARG003 - it has none
        """Begin ``run``, for ``setup_tracker``."""
        backend = cls(rank=run.rank, described=_described(run))
        if run.config is not None:
            backend.log_config(run.config)
        return backend

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Return the empty set: the class has no options."""
        return frozenset()


def _arguments(outdir: str | os.PathLike[str], run_id: str | None) -> RunArguments:
    base = directory_of(outdir)
    own = run_id or secrets.token_hex(RUN_ID_BYTES)
    return RunArguments(None, None, base, 0, own, continues=run_id is not None)


def _described(run: RunArguments) -> RunDescription:
    project = project_of(run.project_name, os.environ)
    return RunDescription(
        run.run_id, project, run.name, run.outdir,
        layout=Layout.BASE if run.outdir_is_named else Layout.NAME,
        label=run.name or (run.run_id if run.continues else project),
        resumes=run.continues, writer=SCRIPT,
    )  # fmt: skip


class _ClaimedRun:
    """A run with its directory, which this process alone writes to until the run ends."""

    def __init__(self, run: RunDescription) -> None:
        send_events_to_logging()
        try:
            self._lock = RunLock(run.outdir, CSV_LOCK, run.run_id, 0.0)
            claimed = self._claim(run)
        except OSError as error:
            raise translated(error, run.outdir) from error
        self.directory = claimed.path
        self.attempt = claimed.attempt + 1
        self._run = replace(run, directory=claimed.path, directory_id=claimed.directory_id)

    def _claim(self, run: RunDescription) -> ClaimedDirectory:
        try:
            claimed = claim_directory(run.place, beginning(run.name, time.time_ns(), world_size=1))
            add_to_manifest(claimed.path, attempt=claimed.attempt + 1)
        except (OSError, BackendError):
            self._lock.release()
            raise
        if claimed.notice:
            logger.warning("%s", claimed.notice)
        return claimed

    def open(self) -> Delivery:
        """Open the files."""
        try:
            return Delivery(CsvBackend(), self._run, CsvItemsBackend(), release=self._close)
        except BackendError:
            self._lock.release()
            raise

    def _close(self, status: RunStatus, reason: str) -> None:
        end = ending(status.value, reason, time.time_ns(), attempt=self.attempt, world_size=1, last_step=None)
        try:
            close_directory(self.directory, self._run.run_id, end)
        except OSError as error:  # the next run finds the lock free, and so the directory too
            logger.info("%s could not be closed: %s", self.directory, error)
        self._lock.release()
