"""The MLflow backend in a process for each lane, as the daemon starts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tracker_daemon.backends.child.process import ChildBackend
from tracker_protocol import limits

SETTINGS: Mapping[str, str] = {
    # Delivery retries; seven attempts by MLflow itself take longer than a call may.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(limits.MLFLOW_REQUEST_TIMEOUT_S),
    # A redirected request would carry the X-Api-Key header to another host.
    "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


class MlflowItemsChildBackend(ChildBackend):
    """Runs :class:`~tracker_daemon.backends.mlflow.items.MlflowItemsBackend` in a child process."""

    name: ClassVar[str] = "mlflow"
    target: ClassVar[str] = "tracker_daemon.backends.mlflow.items:MlflowItemsBackend"
    separate_files: ClassVar[bool] = True
    settings: ClassVar[Mapping[str, str]] = SETTINGS


class MlflowChildBackend(ChildBackend):
    """Runs :class:`~tracker_daemon.backends.mlflow.backend.MlflowBackend` in a child process."""

    name: ClassVar[str] = "mlflow"
    target: ClassVar[str] = "tracker_daemon.backends.mlflow.backend:MlflowBackend"
    separate_files: ClassVar[bool] = True
    settings: ClassVar[Mapping[str, str]] = SETTINGS

    def files_backend(self) -> MlflowItemsChildBackend:
        """Return a backend with another process, so that a long upload delays no metric."""
        return MlflowItemsChildBackend()
