"""``MLflowBackend``: the script itself writes an MLflow run."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tracker_client.backends.built_in import RunArguments
from tracker_client.settings.selectors import SYSTEM_METRICS, SYSTEM_METRICS_WARNING
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.mlflow.backend import MlflowBackend
from tracker_daemon.backends.mlflow.description import OPTIONS
from tracker_daemon.backends.mlflow.items import MlflowItemsBackend
from tracker_daemon.errors import BackendError
from tracker_daemon.inprocess.delivery import DeliveredBackend, Delivery
from tracker_daemon.inprocess.description import describe_run, mlflow_options, rank_of
from tracker_daemon.settings.credentials import BACKENDS, with_files
from tracker_protocol import limits

if TYPE_CHECKING:
    from mlflow.entities import Run

logger = logging.getLogger("tracker_daemon")

_RUNNING = "RUNNING"
_API_KEYS = ("AMSC_API_KEY", "AM_SC_API_KEY")


class MLflowBackend(DeliveredBackend):
    """Records to an MLflow tracking store: ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in ``outdir``.

    MLflow's variables are read from this process's environment, from ``~/.amsc.env`` and from the project's
    ``.env``. Only rank 0 writes.

    Attributes:
        run: MLflow's own description of the run, at its begin; None if nothing is recorded here.
        run_url: the run's page on the server; None for a local store, and if nothing is recorded here.
    """

    name = "mlflow"

    def __init__(
        self,
        project_name: str | None = None,
        config: Any = None,
        outdir: str | os.PathLike[str] | None = None,
        rank: int | None = None,
        *,
        tracker_run_id: str | None = None,
        **start_run: Any,
    ) -> None:
        """Begin the run, or continue it.

        Args:
            project_name: the experiment, unless ``experiment_name`` or MLFLOW_EXPERIMENT_NAME gives it.
            config: recorded as params ``config.*``.
            outdir: the directory of a local store; the working directory if None.
            rank: this process's rank; found from the launcher if None.
            tracker_run_id: an id that a run is begun with; the run of that id is continued, if there is one.
            **start_run: ``run_name``, ``tags``, ``description``, ``experiment_name``, ``experiment_id``,
                ``parent_run_id``, and ``run_id``, MLflow's own id of a run to continue.

        If the store cannot be reached or written, or refuses the run, one warning gives the reason. Then this
        object records nothing, and the script continues.

        Raises:
            RankUnknown: several processes run, and the rank of this one cannot be found.
        """
        super().__init__(None)
        self.run: Run | None = None
        self.run_url: str | None = None
        self._handles: Mapping[str, str] = {}
        rank = rank_of(rank)
        if rank != 0:
            return
        _load_variables()
        options = mlflow_options(start_run)
        if options.pop(SYSTEM_METRICS, False):
            logger.warning("%s", SYSTEM_METRICS_WARNING)
        described = describe_run(project_name, outdir, rank, run_id=tracker_run_id, options=options)
        backend = MlflowBackend()
        try:
            with _bounded_patience():
                self.run = self._begin(backend, described)
        except BackendError as error:
            logger.warning("MLflow records nothing of this run, and the script continues: %s", error)
            return
        self.run_url, self._handles = backend.run_url, backend.handles()
        sys.stderr.write(f"MLflow run {self.run.info.run_name}: {backend.location()}\n")
        if config is not None and self._delivery is not None:
            self._delivery.configure(config, later=False)

    def _begin(self, backend: MlflowBackend, described: RunDescription) -> Run:
        delivery = Delivery(backend, described, MlflowItemsBackend())
        try:
            found = backend.look_up()
            if found.info.status != _RUNNING:
                backend.reopen()
        except BackendError:
            delivery.finish(1)
            raise
        self._delivery = delivery
        return found

    # ---- attributes that scripts read as they are in ``ezpz`` -------------------------------------

    @property
    def _active(self) -> bool:
        """True if this object records."""
        return self._delivery is not None

    @property
    def _run_id(self) -> str | None:
        return self._handles.get("run_id")

    @property
    def _experiment_id(self) -> str | None:
        return self._handles.get("experiment_id")

    @property
    def _tracking_uri(self) -> str | None:
        return self._handles.get("tracking_uri")

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


@contextmanager
def _bounded_patience() -> Iterator[None]:
    """Have MLflow try less often in the block than it does by default, which takes minutes."""
    own = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(limits.INPROCESS_MLFLOW_RETRIES_MAX),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(limits.MLFLOW_REQUEST_TIMEOUT_S),
    }
    added = {name: value for name, value in own.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
