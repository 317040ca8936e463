"""What takes MLflow long to make, one for all test processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers.mlflow_server import MlflowServer, shared_server
from tests.support.servers.mlflow_store import empty_database as empty_database_in


@pytest.fixture(scope="session")
def session_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all processes of a test session share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def empty_database(session_directory: Path) -> Path:
    """A store without runs, to copy to where a run's ``mlflow.db`` is."""
    return empty_database_in(session_directory)


@pytest.fixture(scope="session")
def server(session_directory: Path, empty_database: Path) -> Iterator[MlflowServer]:
    """A real ``mlflow server`` over HTTP; each test uses an experiment of its own."""
    with shared_server(session_directory, empty_database) as server:
        yield server
