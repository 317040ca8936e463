"""The handle of an MLflow run that is written at the daemon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tracker_client.trackers.remote_handle import RemoteHandle

_STORED_RUN = "mlflow.MlflowClient(mlflow_run.tracking_uri).get_run(mlflow_run.info.run_id)"


class MlflowInfo(RemoteHandle):
    """The ids and names of an MLflow run: ``mlflow_run.info``."""

    _kind = "mlflow_run.info"
    _sent = frozenset(("run_id", "experiment_id", "run_name", "artifact_uri"))
    _replacements: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("status", "start_time", "end_time", "user_id", "lifecycle_stage"),
        f"{_STORED_RUN}.info, where the script may read the store,",
    )

    @property
    def run_uuid(self) -> str | None:
        """``run_id``, under its earlier name."""
        return self._read("run_id")


class MlflowRun(RemoteHandle):
    """The MLflow run of a tracker."""

    _kind = "mlflow_run"
    _sent = frozenset(("tracking_uri",))
    _replacements: ClassVar[Mapping[str, str]] = {
        name: f"{_STORED_RUN}.{name}, where the script may read the store,"
        for name in ("data", "inputs", "outputs")
    }

    @property
    def info(self) -> MlflowInfo:
        """The run's ids and names, and the location of its artifacts."""
        return MlflowInfo(self._read, self, "info")
