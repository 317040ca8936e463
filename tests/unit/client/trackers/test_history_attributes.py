"""Attributes of handles that ``ezpz``'s ``History`` reads and sets when it writes its report."""

# ruff: noqa: SLF001 - that class reads private attributes

from __future__ import annotations

from pathlib import Path

import pytest

from tracker_client import Tracker
from tracker_client.trackers.remote_backends import RemoteBackends
from tracker_client.values.refusals import Refusals


@pytest.fixture
def backends():
    told = {"csv": {"path": "/runs/a/metrics.csv"}, "mlflow": {"run_id": "f00", "experiment_id": "7"}}
    return RemoteBackends(Tracker(), lambda backend, name: told.get(backend, {}).get(name), {}, Refusals())


def test_attributes_that_the_seeds_history_reads_are_those_of_the_daemons_backends(backends):
    csv, mlflow = backends.get("csv"), backends.get("mlflow")
    assert csv._csv_path == Path("/runs/a/metrics.csv")
    assert (mlflow._active, mlflow._run_id, mlflow._experiment_id) == (True, "f00", "7")
    assert not hasattr(backends.get("printer"), "_csv_path")


def test_setting_the_path_of_the_csv_file_moves_nothing(backends):
    csv = backends.get("csv")
    csv._outdir = Path("/elsewhere")
    csv._csv_path = Path("/elsewhere/metrics.csv")
    assert csv._csv_path == Path("/runs/a/metrics.csv")


def test_unknown_attributes_are_absent_and_an_unknown_run_is_not_active():
    backends = RemoteBackends(Tracker(), lambda backend, name: None, {}, Refusals())
    assert not hasattr(backends.get("csv"), "_csv_path")
    assert backends.get("mlflow")._active is False
