"""How runs end with their job: never RUNNING for ever, never FINISHED after a crash, and by name."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest
from mlflow.tracking import MlflowClient

TRAIN = """
import os, signal, sys, time
from tracker_client import setup_tracker

def leave(number, frame):
    time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 0)  # writes its checkpoint
    tracker.log({"last": 1.0}, step=8)
    sys.exit(128 + number)

tracker = setup_tracker("ended", handle_timeout=60)
if os.environ.get("HANDLES") == os.environ["RANK"]:
    signal.signal(signal.SIGTERM, leave)
tracker.log({"loss": 1.0}, step=7)
while tracker.status().buffered_points or tracker.status().unacknowledged_points:
    time.sleep(0.01)
print("recorded", flush=True)
while True:
    signal.pause()
"""


def mlflow_run(outdir):
    client = MlflowClient(f"sqlite:///{outdir}/mlflow.db")
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return run.info.status, run.data.tags["tracker.end_reason"]


def test_a_job_that_sigterm_ends_leaves_no_run_running_and_names_ranks_and_hosts(make_daemon):
    daemon = make_daemon("--backends", "csv,mlflow")
    started = pytest.ranks_of(daemon).start(TRAIN, [0, 1], 2)
    for process in started:
        assert process.stdout.readline() == "recorded\n"
    for process in (*started, daemon.process):  # as a batch system does: everyone at once
        process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(60) == 0
    assert [process.wait(60) for process in started] == [-signal.SIGTERM] * 2
    host = socket.gethostname()
    reason = f"ranks 0 on {host} (last step 7), 1 on {host} (last step 7) lost contact"
    (run,) = daemon.last_status()["runs"]
    assert (run["status"], run["reason"]) == ("FAILED", reason)
    assert mlflow_run(daemon.outdir) == ("FAILED", reason)


def test_a_rank_that_takes_its_time_over_sigterm_is_waited_for_under_run(tmp_path):
    script, outdir = tmp_path / "train.py", tmp_path / "out"
    script.write_text(TRAIN)
    command = [
        sys.executable,
        "-m",
        "tracker_daemon",
        "run",
        "--outdir",
        str(outdir),
        "--backends",
        "csv,mlflow",
    ]
    environ = {**os.environ, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "HANDLES": "0"}
    wrapper = subprocess.Popen(
        [*command, "--", sys.executable, str(script), "4"],
        env=environ, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert wrapper.stdout.readline() == "recorded\n"
    wrapper.send_signal(signal.SIGTERM)
    assert wrapper.wait(120) == 128 + signal.SIGTERM
    reason = f"rank 0 on {socket.gethostname()} (last step 8) ended by SIGTERM"
    assert mlflow_run(outdir) == ("FAILED", reason)


def test_a_killed_job_fails_its_run_and_a_restart_within_the_grace_is_its_next_attempt(make_daemon):
    flags = ("--backends", "csv", "--lost-timeout-s", "1", "--restart-grace-s", "600")
    daemon = make_daemon(*flags)
    ranks = pytest.ranks_of(daemon)

    def state():
        (run,) = daemon.status()["runs"]
        return run["status"], run["attempt"], [rank["state"] for rank in run["ranks"]]

    def begun():
        (process,) = ranks.start(TRAIN, [0], 2)
        assert process.stdout.readline() == "recorded\n"
        return process

    first = begun()
    assert state() == ("RUNNING", 1, ["live", "expected"])
    first.kill()
    pytest.wait_until(lambda: state()[2] == ["lost", "expected"], "the killed rank to be lost")
    begun().kill()
    pytest.wait_until(lambda: state() == ("RUNNING", 2, ["lost", "expected"]), "the second to be lost")
    daemon.kill()
    daemon.flags = ("--backends", "csv", "--lost-timeout-s", "1", "--start-timeout-s", "1")
    daemon.start()  # without a grace, and with no patience for the rank that never came
    pytest.wait_until(lambda: state() == ("FAILED", 2, ["lost", "absent"]), "the run to be over")
    (run,) = daemon.status()["runs"]
    assert run["reason"] == (
        f"rank 0 on {socket.gethostname()} (last step 7) lost contact; rank 1 never came"
    )
