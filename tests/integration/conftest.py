"""Servers that take long to start, one for all files that need it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.servers.mlflow_server import MlflowServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real ``mlflow server`` over HTTP; each test uses an experiment of its own."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow-server")).start()
    yield server
    server.kill()
