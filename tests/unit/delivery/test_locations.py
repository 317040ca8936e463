"""Where a run is recorded, as a person is told it."""

from pathlib import Path

import pytest

from tracker_daemon.backends.base import RunDescription
from tracker_daemon.delivery.locations import log_location, print_location

RUN = RunDescription("run-a", "the-project", "the-name", Path("/out"))
MLFLOW = {
    "experiment_name": "the-experiment", "run_name": "brave-fox", "tracking_uri": "https://m.example",
    "run_id": "1f", "run_url": "https://m.example/#/experiments/3/runs/1f",
}  # fmt: skip


@pytest.mark.parametrize(
    ("backend", "location", "handles", "told"),
    [
        ("csv", "/out/metrics.csv", {}, "csv → /out/metrics.csv"),
        ("wandb", "https://w.example/t/p/runs/x", {"id": "x"}, "wandb → https://w.example/t/p/runs/x"),
        (
            "mlflow", MLFLOW["run_url"], MLFLOW,
            "mlflow → experiment the-experiment, run brave-fox, https://m.example/#/experiments/3/runs/1f",
        ),
        (
            "mlflow", "/out/mlflow.db", {**MLFLOW, "tracking_uri": "sqlite:////out/mlflow.db"},
            "mlflow → experiment the-experiment, run brave-fox, sqlite:////out/mlflow.db, /out/mlflow.db",
        ),
    ],
)  # fmt: skip
def test_a_person_is_told_names_and_address_on_one_line(capfd, backend, location, handles, told):
    print_location(RUN, backend, location, handles)
    assert f"tracker-daemon: run the-project/the-name: {told}\n" in capfd.readouterr().out


def test_a_daemon_that_nobody_started_for_a_command_only_logs_it(capfd):
    log_location(RUN, "csv", "/out/metrics.csv", {})
    assert not capfd.readouterr().out.startswith("tracker-daemon: run")
