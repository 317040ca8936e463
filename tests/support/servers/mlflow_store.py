"""A local MLflow store without runs, made once for all test processes: MLflow takes seconds to make one."""

from __future__ import annotations

import fcntl
from pathlib import Path


def empty_database(directory: Path) -> Path:
    """The database in ``directory``, which is one for all test processes; the first makes it."""
    path = directory / "empty-mlflow.db"
    with (directory / "empty-mlflow.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            # Here, so that only those who need it import MLflow.
            from mlflow import MlflowClient

            draft = directory / "draft-mlflow.db"
            MlflowClient(tracking_uri=f"sqlite:///{draft}", registry_uri=f"sqlite:///{draft}")
            draft.rename(path)
    return path
