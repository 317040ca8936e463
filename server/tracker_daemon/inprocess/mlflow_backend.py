"""``MLflowBackend``: the script itself writes an MLflow run."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tracker_client.backends.built_in import RunArguments
from tracker_daemon.backends.mlflow.backend import MlflowBackend
from tracker_daemon.backends.mlflow.description import OPTIONS
from tracker_daemon.backends.mlflow.items import MlflowItemsBackend
from tracker_daemon.inprocess.delivery import DeliveredBackend, Delivery
from tracker_daemon.inprocess.description import describe_run, mlflow_options
from tracker_daemon.settings.credentials import BACKENDS, with_files

if TYPE_CHECKING:
    from mlflow.entities import Run

_RUNNING = "RUNNING"
_API_KEYS = ("AMSC_API_KEY", "AM_SC_API_KEY")


class MLflowBackend(DeliveredBackend):
    """Records to an MLflow tracking store: ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in ``outdir``.

    MLflow's variables are read from this process's environment, from ``~/.amsc.env`` and from the project's
    ``.env``. Only rank 0 writes.

    Attributes:
        run: MLflow's own description of the run, at its begin; None on other ranks.
        run_url: the run's page on the server; None for a local store, and on other ranks.
    """

    name = "mlflow"

    def __init__(
        self,
        project_name: str | None = None,
        config: Any = None,
        outdir: str | os.PathLike[str] | None = None,
        rank: int = 0,
        *,
        tracker_run_id: str | None = None,
        **start_run: Any,
    ) -> None:
        """Begin the run, or continue it.

        Args:
            project_name: the experiment, unless ``experiment_name`` or MLFLOW_EXPERIMENT_NAME gives it.
            config: recorded as params ``config.*``.
            outdir: the directory of a local store; the working directory if None.
            rank: this process's rank.
            tracker_run_id: an id that a run is begun with; the run of that id is continued, if there is one.
            **start_run: ``run_name``, ``tags``, ``description``, ``experiment_name``, ``experiment_id``,
                ``parent_run_id``, and ``run_id``, MLflow's own id of a run to continue.

        Raises:
            BackendError: the store cannot be reached or written, or it refuses the run.
        """
        self.run: Run | None = None
        self.run_url: str | None = None
        if rank != 0:
            super().__init__(None)
            return
        _load_variables()
        described = describe_run(
            project_name, outdir, rank, run_id=tracker_run_id, options=mlflow_options(start_run)
        )
        backend = MlflowBackend()
        super().__init__(Delivery(backend, described, MlflowItemsBackend()))
        found = backend.look_up()
        if found.info.status != _RUNNING:
            backend.reopen()
        self.run, self.run_url = found, backend.run_url
        sys.stderr.write(f"MLflow run {found.info.run_name}: {backend.location()}\n")
        if config is not None:
            self.log_config(config)

    @classmethod
    def for_run(cls, run: RunArguments, options: Mapping[str, Any]) -> MLflowBackend:
        """Begin ``run``, for ``setup_tracker``."""
        return cls(run.project_name, run.config, run.outdir, run.rank, tracker_run_id=run.run_id, **options)

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Return the names of the arguments of MLflow's ``start_run``, and those of the experiment."""
        return OPTIONS


def _load_variables() -> None:
    """Load MLflow's variables from the files into this process's environment, where MLflow reads them."""
    os.environ.update(with_files(BACKENDS["mlflow"], os.environ))
    if any(os.environ.get(name) for name in _API_KEYS):
        # A redirected request would send the X-Api-Key header to the other host.
        os.environ.setdefault("MLFLOW_ALLOW_HTTP_REDIRECTS", "false")
