"""The command line, with real daemons and real clients."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tomllib

COMMAND = [sys.executable, "-m", "tracker_daemon"]
RUN = ["run", "--backends", "csv", "--outdir", "out", "--"]
PATIENCE_S = 60.0
SCRIPT = """
import os, signal, sys, time
from tracker_client import setup_tracker
with setup_tracker(project_name="cli") as tracker:
    for step in range(50):
        tracker.log({"loss": float(step)}, step=step)
    while (status := tracker.status()).buffered_points or status.unacknowledged_points or not status.run_id:
        time.sleep(0.01)
    print("logged", flush=True)
    ENDING
"""


def command(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; what the machine's own environment says of trackers is left out."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=bare(environ),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def bare(environ: dict[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRACKER_")}
    return inherited | {"STATE_DIRECTORY": "/nonexistent/state"} | environ


def script(ending: str = "") -> list[str]:
    return [sys.executable, "-c", SCRIPT.replace("ENDING", ending)]


@pytest.fixture
def run_in_background(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``run`` around a command, as a process that the test can signal."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *RUN, *arguments],
            cwd=tmp_path, env=bare({}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate()


# ---- a daemon's life from scripts ----------------------------------------------------------------


def test_a_daemon_is_awaited_asked_and_stopped_through_its_endpoint_file(daemon, tmp_path: Path) -> None:
    place = ("--endpoint-file", str(daemon.endpoint_file))
    assert command("wait", "--ready", "--timeout", "30", *place, cwd=tmp_path).returncode == 0
    document = json.loads(command("status", "--json", *place, cwd=tmp_path).stdout)
    assert document["daemon"]["pid"] == daemon.process.pid
    assert document["daemon"]["state_dir"] == str(daemon.state_dir)
    assert f"pid {daemon.process.pid}" in command("status", *place, cwd=tmp_path).stdout
    assert command("stop", *place, cwd=tmp_path).returncode == 0
    assert daemon.process.wait(PATIENCE_S) == 0
    again = command("stop", *place, cwd=tmp_path)
    assert (again.returncode, again.stderr.partition(":")[0]) == (0, "nothing to stop")


def test_a_daemon_is_found_by_its_state_directory_and_by_the_environment(daemon, tmp_path: Path) -> None:
    assert command("status", "--state-dir", str(daemon.state_dir), cwd=tmp_path).returncode == 0
    assert command("status", cwd=tmp_path, TRACKER_ENDPOINT_FILE=str(daemon.endpoint_file)).returncode == 0
    address, token = str(daemon.endpoint["endpoint"]), str(daemon.endpoint["token"])
    assert command("status", "--endpoint", address, cwd=tmp_path, TRACKER_TOKEN=token).returncode == 0
    assert command("status", cwd=tmp_path).returncode == 1


def test_without_the_token_a_daemon_tells_nothing_and_does_not_stop(daemon, tmp_path: Path) -> None:
    place = ("--endpoint", str(daemon.endpoint["endpoint"]))
    for words in (("status", "--json"), ("stop",)):
        refused = command(*words, *place, cwd=tmp_path, TRACKER_TOKEN="guessed")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "refuses the token" in refused.stderr
    assert daemon.process.poll() is None


def test_the_endpoint_file_is_private_and_gone_once_the_daemon_has_drained(daemon) -> None:
    assert daemon.endpoint_file.stat().st_mode & 0o777 == 0o600
    assert daemon.stop() == 0
    assert not daemon.endpoint_file.exists()


def test_a_daemon_started_again_keeps_its_token(daemon) -> None:
    token = daemon.endpoint["token"]
    daemon.kill()
    daemon.start()
    assert daemon.endpoint["token"] == token


def test_a_second_daemon_is_refused_in_one_line_and_the_first_goes_on(daemon, tmp_path: Path) -> None:
    second = command("serve", "--state-dir", str(daemon.state_dir), cwd=tmp_path)
    assert second.returncode == 1
    assert [line for line in second.stderr.splitlines() if line.startswith("error: ")] == [
        second.stderr.splitlines()[-1]
    ]
    assert str(daemon.state_dir) in second.stderr
    assert command("status", "--state-dir", str(daemon.state_dir), cwd=tmp_path).returncode == 0


def test_an_address_that_is_taken_is_refused(daemon, tmp_path: Path) -> None:
    taken = str(daemon.endpoint["endpoint"])
    second = command("serve", "--state-dir", "other", "--listen", taken, cwd=tmp_path)
    assert second.returncode == 2
    assert f"error: cannot listen at {taken}" in second.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_a_daemon_well(daemon, number: signal.Signals) -> None:
    daemon.process.send_signal(number)
    assert daemon.process.wait(PATIENCE_S) == 0
    assert daemon.last_status()["daemon"]["draining"] is True


def test_a_daemon_listens_at_a_unix_socket(make_daemon, tmp_path: Path) -> None:
    daemon = make_daemon("--listen", f"unix:{tmp_path}/s,127.0.0.1:0")
    assert daemon.endpoint["endpoints"][0] == f"unix:{tmp_path}/s"
    assert daemon.status()["daemon"]["pid"] == daemon.process.pid


def test_flags_environment_and_file_make_one_daemons_settings(
    make_daemon, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "t.toml").write_text(
        'listen = ["127.0.0.1:1"]\nlog_level = "debug"\nlog_format = "console"\n'
    )
    monkeypatch.setenv("TRACKER_LOG_FORMAT", "json")
    daemon = make_daemon("--config", str(tmp_path / "t.toml"), "--listen", "127.0.0.1:0")
    assert not str(daemon.endpoint["endpoint"]).endswith(":1")
    assert all(json.loads(line) for line in daemon.log().splitlines())


def test_check_config_shows_what_a_daemon_would_use(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text("learn_wait_s = 2.5\n")
    shown = command("check-config", "t.toml", cwd=tmp_path, TRACKER_RECORD_RANKS="0-3")
    assert shown.returncode == 0
    assert tomllib.loads(shown.stdout)["learn_wait_s"] == 2.5
    assert tomllib.loads(shown.stdout)["record_ranks"] == "0-3"


# ---- a daemon for one command --------------------------------------------------------------------


def test_run_records_what_the_command_logs_and_says_where_it_is(tmp_path: Path) -> None:
    done = command(*RUN, *script(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "logged\n"
    assert "FINISHED, 50 records of 1 metric" in done.stderr
    assert f"csv: 50 delivered → {tmp_path}/out/metrics.csv" in done.stderr
    assert len((tmp_path / "out" / "metrics.csv").read_text().splitlines()) == 51


def test_run_says_what_it_still_delivers_and_ctrl_c_then_leaves_it_to_the_next_daemon(
    tmp_path: Path, empty_database: Path
) -> None:
    (tmp_path / "out").mkdir()
    shutil.copy(empty_database, tmp_path / "out" / "mlflow.db")
    mlflow = ["run", "--outdir", "out", "--backends", "csv,mlflow", "--drain-timeout-s", "600", "--"]
    # As from a terminal: what is begun in the background of a script has SIGINT ignored.
    process = subprocess.Popen(
        ["env", "--default-signal=INT", *COMMAND, *mlflow, *script()],
        cwd=tmp_path, env=bare({"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert any("delivering 50 records to mlflow, " in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, shown
    assert "mlflow: 0 delivered, 50 pending" in shown
    assert "csv: 50 delivered" in shown
    assert command(*mlflow, "true", cwd=tmp_path).returncode == 0  # with a store that is there
    (run,) = json.loads((tmp_path / "out" / ".tracker" / "last-status.json").read_text())["runs"]
    assert {backend["name"]: backend["delivered"] for backend in run["backends"]} == {"csv": 50, "mlflow": 50}


def test_each_run_of_a_command_is_a_run_of_its_own(tmp_path: Path) -> None:
    first, second = (command(*RUN, *script(), cwd=tmp_path) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0)
    assert second.stderr.count(" records of ") == 1, "the earlier run is not summed up again"
    assert len(list((tmp_path / "out").rglob("metrics.csv"))) == 2


@pytest.mark.parametrize(
    ("ending", "status"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", 137)]
)
def test_a_failing_command_gives_its_status_and_a_failed_run(
    tmp_path: Path, ending: str, status: int
) -> None:
    done = command(*RUN, *script(ending), cwd=tmp_path)
    assert done.returncode == status
    assert "FAILED" in done.stderr


def test_the_environment_is_the_endpoint_of_the_commands_own_daemon(daemon, tmp_path: Path) -> None:
    elsewhere = {
        "TRACKER_ENDPOINT": str(daemon.endpoint["endpoint"]),
        "TRACKER_TOKEN": str(daemon.endpoint["token"]),
    }
    done = command(*RUN, *script(), cwd=tmp_path, **elsewhere)
    assert "50 records" in done.stderr
    assert daemon.status()["runs"] == []


def test_sigterm_reaches_the_command_and_what_it_logged_is_delivered(
    tmp_path: Path, run_in_background: Callable[..., subprocess.Popen[str]]
) -> None:
    process = run_in_background(*script("signal.pause()"))
    assert process.stdout.readline() == "logged\n"
    process.send_signal(signal.SIGTERM)
    _, shown = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert "FAILED" in shown
    assert len((tmp_path / "out" / "metrics.csv").read_text().splitlines()) == 51


def test_a_killed_daemon_is_started_again_and_the_command_notices_nothing(
    tmp_path: Path, run_in_background: Callable[..., subprocess.Popen[str]]
) -> None:
    more = "input(); [tracker.log({'loss': float(step)}, step=step) for step in range(50, 100)]"
    process = subprocess.Popen(
        [*COMMAND, *RUN, *script(more)],
        cwd=tmp_path, env=bare({}), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "logged\n"
    os.kill(json.loads((tmp_path / "out" / ".tracker" / "endpoint.json").read_text())["pid"], signal.SIGKILL)
    _, shown = process.communicate("\n", timeout=PATIENCE_S)
    assert process.returncode == 0, shown
    assert "killed by SIGKILL" in shown
    steps = [line.split(",")[0] for line in (tmp_path / "out" / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == [str(step) for step in range(100)]


def test_two_runs_in_one_directory_at_once_are_refused_with_the_reason(
    tmp_path: Path, run_in_background: Callable[..., subprocess.Popen[str]]
) -> None:
    first = run_in_background(*script("signal.pause()"))
    assert first.stdout.readline() == "logged\n"
    second = command(*RUN, "true", cwd=tmp_path)
    assert second.returncode == 1
    assert "error: the daemon did not start" in second.stderr
    assert str(tmp_path / "out" / ".tracker") in second.stderr
    status = command("status", "--state-dir", "out/.tracker", cwd=tmp_path)
    assert "RUNNING" in status.stdout


def test_a_command_that_connects_no_rank_is_told_what_to_look_at(tmp_path: Path) -> None:
    done = command("run", "--", "true", cwd=tmp_path)
    assert done.returncode == 0
    assert "no rank connected" in done.stderr
    assert f"TRACKER_ENDPOINT_FILE={tmp_path}/tracker-runs/.tracker/endpoint.json" in done.stderr


SHIM = """#!/bin/sh
# What srun -n N CMD… does, as far as a rank sees it.
n=$2; shift 2
for rank in $(seq 0 $((n - 1))); do
    export SLURM_JOB_ID=7 SLURM_STEP_ID=0 SLURM_NODEID=0 SLURM_NTASKS=$n
    export SLURM_PROCID=$rank SLURM_LOCALID=$rank
    "$@" &
done
wait
"""


def test_ranks_that_srun_starts_are_one_run(tmp_path: Path) -> None:
    (tmp_path / "srun").write_text(SHIM)
    (tmp_path / "srun").chmod(0o755)
    done = command(*RUN, "./srun", "-n", "3", *script(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "FINISHED, 50 records" in done.stderr
    header, first, *_ = (tmp_path / "out" / "metrics.csv").read_text().splitlines()
    assert "loss/mean" in header
    assert "loss/count" not in header, f"all three ranks: {first}"


def test_a_shells_trials_are_runs_of_their_own_and_its_status_is_theirs(tmp_path: Path) -> None:
    (tmp_path / "trial.py").write_text(SCRIPT.replace("ENDING", ""))
    trials = f"{sys.executable} trial.py; {sys.executable} trial.py; exit 4"
    done = command(*RUN, "bash", "-c", trials, cwd=tmp_path)
    assert done.returncode == 4
    assert done.stderr.count("FINISHED, 50 records") == 2
