"""``CSVBackend``: the script itself writes ``metrics.csv`` and ``config.json``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracker_client.backends.built_in import RunArguments
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.child.lock import ChildLock
from tracker_daemon.backends.csv.backend import CsvBackend
from tracker_daemon.backends.csv.items import CsvItemsBackend
from tracker_daemon.errors import BackendError, BackendUnavailable
from tracker_daemon.inprocess.delivery import DeliveredBackend, Delivery
from tracker_daemon.inprocess.description import rank_of
from tracker_protocol import limits

RUN_ID = "inprocess"
"""The run id that scripts without a daemon claim a directory with; so the next script continues there."""


class CSVBackend(DeliveredBackend):
    """Appends rows to ``metrics.csv`` in ``outdir``, and merges the configuration into ``config.json``.

    A script that runs again appends to the same file. If the directory belongs to another run, or another
    process writes there now, the files are in a subdirectory. Only rank 0 writes.
    """

    name = "csv"

    def __init__(
        self, outdir: str | os.PathLike[str] = ".", rank: int | None = None, *, run_id: str | None = None
    ) -> None:
        """Open the file.

        Args:
            outdir: the directory; created if it is missing.
            rank: this process's rank; found from the launcher if None.
            run_id: the run that the directory belongs to; None continues after the last script without one.

        Raises:
            BackendError: the directory cannot be written.
            RankUnknown: several processes run, and the rank of this one cannot be found.
        """
        super().__init__(_delivery(Path(outdir).absolute(), run_id) if rank_of(rank) == 0 else None)

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
        backend = cls(run.outdir or ".", run.rank, run_id=run.run_id if run.continues else None)
        if run.config is not None:
            backend.log_config(run.config)
        return backend

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Return the empty set: the class has no options."""
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
    """Return a run id that no other tracker writes under now, and the lock that holds it."""
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
