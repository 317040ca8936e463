"""``metrics.csv`` and ``config.json`` written by the script itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracker_client.backends.built_in import RunArguments
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.child.lock import ChildLock
from tracker_daemon.backends.csv.backend import CsvBackend
from tracker_daemon.backends.csv.format import STEP_COLUMN
from tracker_daemon.backends.csv.items import CsvItemsBackend
from tracker_daemon.errors import BackendError, BackendUnavailable
from tracker_daemon.inprocess.delivery import DeliveredBackend, Delivery
from tracker_protocol import limits

RUN_ID = "inprocess"
"""Under which a directory is claimed by scripts without a daemon, so that the next one goes on there."""


class CSVBackend(DeliveredBackend):
    """Appends rows to ``metrics.csv`` in ``outdir``, and merges the configuration into ``config.json``.

    A script that is run again goes on at the file's end. A directory that is another run's, or another
    process's at this moment, gets a subdirectory. Only rank 0 writes.
    """

    name = "csv"

    def __init__(
        self, outdir: str | os.PathLike[str] = ".", rank: int = 0, *, run_id: str | None = None
    ) -> None:
        """Open the file.

        Args:
            outdir: the directory, made where it is missing.
            rank: this process's rank.
            run_id: whose directory it is; None goes on where the last script without one left off.

        Raises:
            BackendError: the directory cannot be written.
        """
        super().__init__(_delivery(Path(outdir).absolute(), run_id) if rank == 0 else None)

    def log(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool = True) -> None:  # noqa: FBT001, FBT002 - TrackerBackend's
        """As the base class; a ``step`` among the metrics is the row's step, before the argument."""
        if type(own := metrics.get(STEP_COLUMN)) is int:
            rest = {name: value for name, value in metrics.items() if name != STEP_COLUMN}
            super().log(rest, own, commit)
        else:
            super().log(metrics, step, commit)

    @classmethod
    def for_run(cls, run: RunArguments, options: Mapping[str, Any]) -> CSVBackend:  # noqa: ARG003 - it has none
        """Begin ``run``; what ``setup_tracker`` calls."""
        backend = cls(run.outdir or ".", run.rank, run_id=run.run_id if run.continues else None)
        if run.config is not None:
            backend.log_config(run.config)
        return backend

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """None: it has no options."""
        return frozenset()


def _delivery(outdir: Path, run_id: str | None) -> Delivery:
    own, lock = _claim(outdir, run_id)
    try:
        run = RunDescription(own, "", "", outdir)
        return Delivery(CsvBackend(), run, CsvItemsBackend(), release=lock.release)
    except BackendError:
        lock.release()
        raise


def _claim(outdir: Path, run_id: str | None) -> tuple[str, ChildLock]:
    """A run id that no other tracker writes under at this moment, and the lock that keeps it so."""
    if run_id is not None:
        return run_id, ChildLock(outdir, CsvBackend.name, run_id, 0.0)
    number = 1
    while True:
        own = RUN_ID if number == 1 else f"{RUN_ID}-{number}"
        try:
            return own, ChildLock(outdir, CsvBackend.name, own, 0.0)
        except BackendUnavailable:
            if number == limits.INPROCESS_CSV_SIMULTANEOUS_MAX:
                raise
        number += 1
