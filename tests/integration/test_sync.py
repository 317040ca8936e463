"""``sync``: what a daemon that has ended left, delivered by another one at a person's request."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from mlflow.tracking import MlflowClient

from tests.support.ranks import Ranks
from tests.support.waiting import wait_until

LOGGING = """
import signal, time
from tracker_client import setup_tracker
tracker = setup_tracker("synced", backends="csv,mlflow")
for step in range(20):
    tracker.log({"loss": float(step)}, step=step)
while (status := tracker.status()).buffered_points or status.unacknowledged_points or not status.run_id:
    time.sleep(0.01)
print("logged", flush=True)
ENDING
"""
AWAY = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}


def sync(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracker_daemon", "sync", *map(str, arguments)],
        env={**os.environ, **environ}, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


def leave_undelivered(make_daemon, monkeypatch, ending: str = "tracker.finish()", store: Path | None = None):
    """A daemon whose MLflow store was never there, killed after a rank has logged; the daemon, the rank."""
    for name, value in AWAY.items():
        monkeypatch.setenv(name, value)
    daemon = make_daemon("--backends", "csv,mlflow", mlflow_store=store)
    monkeypatch.undo()
    (rank,) = Ranks(daemon).start(LOGGING.replace("ENDING", ending), [0], 1)
    assert rank.stdout.readline() == "logged\n"
    if ending == "tracker.finish()":
        assert rank.wait(60) == 0
    metrics = daemon.outdir / "metrics.csv"
    wait_until(lambda: metrics.exists() and len(daemon.rows()) == 20, "the rows in the CSV")
    daemon.kill()
    return daemon, rank


def points_of(outdir: Path) -> tuple[str, list[int]]:
    """How the MLflow run stands, and the steps that it has."""
    client = MlflowClient(f"sqlite:///{outdir}/mlflow.db")
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return run.info.status, sorted(m.step for m in client.get_metric_history(run.info.run_id, "loss"))


def test_what_a_dead_daemon_left_is_delivered_once_and_a_run_whose_ranks_are_gone_has_ended(
    make_daemon, empty_database, monkeypatch
) -> None:
    daemon, rank = leave_undelivered(make_daemon, monkeypatch, "signal.pause()", empty_database)
    rank.kill()
    done = sync(daemon.state_dir, TRACKER_LOST_TIMEOUT_S="1")
    assert done.returncode == 0, done.stderr
    assert "tracker-daemon: delivering " in done.stderr
    assert f"FAILED (rank 0 on {socket.gethostname()} (last step 19) lost contact)" in done.stderr
    assert "mlflow: 20 delivered" in done.stderr
    assert points_of(daemon.outdir) == ("FAILED", list(range(20)))
    again = sync(daemon.state_dir)
    # A daemon that starts slowly makes the command print first what it waits for.
    said = again.stderr.splitlines()
    if said[0] == "tracker-daemon: waiting for the daemon to open its journal":
        del said[0]
    assert (again.returncode, said) == (
        0, [f"tracker-daemon: everything in {daemon.state_dir} is delivered"]
    )  # fmt: skip


def test_what_cannot_be_delivered_stays_and_the_command_says_so(make_daemon, monkeypatch) -> None:
    daemon, _ = leave_undelivered(make_daemon, monkeypatch)
    done = sync("--timeout", "1", daemon.state_dir, **AWAY)
    assert done.returncode == 1
    assert "mlflow: 0 delivered, 20 pending" in done.stderr
    assert "was killed" not in done.stderr
    assert f"what was not delivered stays in the journal in {daemon.state_dir}" in done.stderr


def test_a_directory_without_a_journal_is_named_and_left_alone(tmp_path: Path) -> None:
    done = sync(tmp_path / "runs")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'runs'} holds no journal; ")
    assert list(tmp_path.iterdir()) == []


def test_a_daemon_that_runs_there_is_named(daemon) -> None:
    done = sync(daemon.state_dir)
    assert done.returncode == 1
    assert f"in use by the tracker-daemon with pid {daemon.process.pid}" in done.stderr
