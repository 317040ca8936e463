"""One daemon and its clients: who is let in, and which run is whose."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pytest

from tests.support.ranks import Ranks, finish
from tests.support.waiting import wait_until
from tracker_protocol import PROTOCOL_VERSION

LOG_ONCE = """
from tracker_client import setup_tracker
with setup_tracker("{project}") as tracker:
    tracker.log({{"x": 1.0}}, step=0)
"""


def test_every_call_needs_the_token(daemon, tmp_path):
    stolen = tmp_path / "stolen.json"
    stolen.write_text(json.dumps({**daemon.endpoint, "token": "guessed"}))
    for command in ("status", "stop"):
        call = [sys.executable, "-m", "tracker_daemon", command, "--endpoint-file", str(stolen)]
        refused = subprocess.run(call, capture_output=True, text=True, check=False)
        assert refused.returncode != 0
        assert "token" in refused.stderr
    (process,) = Ranks(daemon).start(
        'from tracker_client import setup_tracker\nsetup_tracker("p", strict=True)',
        [0],
        1,
        TRACKER_ENDPOINT_FILE=str(stolen),
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "token" in err
    assert daemon.status()["runs"] == []


def test_the_endpoint_file_is_private_and_goes_with_the_daemon(daemon):
    assert daemon.endpoint_file.stat().st_mode & 0o777 == 0o600
    assert daemon.endpoint["protocol_version"] == PROTOCOL_VERSION
    assert daemon.stop() == 0
    assert not daemon.endpoint_file.exists()


def test_a_state_directory_has_one_daemon(daemon):
    command = [sys.executable, "-m", "tracker_daemon", "serve", "--state-dir", str(daemon.state_dir)]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode != 0
    assert str(daemon.process.pid) in second.stderr
    assert daemon.status()["daemon"]["pid"] == daemon.process.pid


def test_two_daemons_cannot_share_a_port(daemon, tmp_path):
    command = [
        sys.executable, "-m", "tracker_daemon", "serve", "--state-dir", str(tmp_path / "other"),
        "--listen", daemon.endpoint["endpoint"],
    ]  # fmt: skip
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode != 0
    assert daemon.endpoint["endpoint"] in second.stderr
    assert "Traceback" not in second.stderr


def test_runs_of_two_launches_at_once_and_in_a_row_are_apart(daemon, ranks):
    at_once = [
        process
        for project in ("a", "b")
        for process in ranks.start(LOG_ONCE.format(project=project), range(2), 2, TRACKER_LAUNCH_ID=project)
    ]
    for process in at_once:
        finish(process)
    ranks.run(LOG_ONCE.format(project="a"), 2, TRACKER_LAUNCH_ID="a")
    runs = daemon.status()["runs"]
    assert sorted(run["project"] for run in runs) == ["a", "a", "b"]
    assert len({run["run_id"] for run in runs}) == 3
    assert all(run["books"]["received"] == 2 for run in runs)
    daemon.stop()
    files = list(daemon.outdir.rglob("metrics.csv"))
    assert len(files) == 3
    assert all(len(daemon.rows(file.parent)) == 1 for file in files)


def test_a_rank_that_a_live_process_holds_is_refused_with_both_named(daemon, ranks):
    script = """
import os, sys
from tracker_client import setup_tracker
tracker = setup_tracker("claims", strict=True)
print(os.getpid(), tracker.run_id, flush=True)
sys.stdin.readline()
tracker.finish()
"""
    (holder,) = ranks.start(script, [0], 2)
    held = holder.stdout.readline().split()[0]
    (claimant,) = ranks.start(script, [0], 2)
    _, err = claimant.communicate(timeout=60)
    assert claimant.returncode != 0
    assert held in err
    assert str(claimant.pid) in err
    holder.stdin.write("\n")
    finish(holder)


def test_a_rank_that_comes_again_opens_the_next_attempt(make_daemon, ranks):
    daemon = ranks.daemon = make_daemon("--backends", "csv", "--restart-grace-s", "60")
    script = """
import sys
from tracker_client import setup_tracker
tracker = setup_tracker("attempts")
tracker.log({"x": 1.0}, step=0)
print(tracker.attempt, flush=True)
sys.stdin.readline()
tracker.finish()
"""
    (first,) = ranks.start(script, [0], 2)
    (second,) = ranks.start(script, [1], 2)
    assert [first.stdout.readline(), second.stdout.readline()] == ["1\n", "1\n"]
    for process in (first, second):
        process.kill()
        process.wait()
    wait_until(
        lambda: {rank["state"] for rank in daemon.status()["runs"][0]["ranks"]} == {"disconnected"},
        "both ranks to be gone",
    )
    again = ranks.start(script, [0, 1], 2)
    assert [process.stdout.readline() for process in again] == ["2\n", "2\n"]
    for process in again:
        process.stdin.write("\n")
        finish(process)
    (run,) = daemon.status()["runs"]
    assert (run["attempt"], run["status"]) == (2, "FINISHED")


def test_sigterm_delivers_what_is_there_and_ends_well(daemon, ranks):
    script = """
import sys
from tracker_client import setup_tracker
tracker = setup_tracker("drain")
for step in range(1000):
    tracker.log({"x": float(step)}, step=step)
print("logged", flush=True)
sys.stdin.readline()
"""
    (process,) = ranks.start(script, [0], 1)
    process.stdout.readline()
    wait_until(
        lambda: daemon.status()["runs"] and daemon.status()["runs"][0]["books"]["received"] == 1000,
        "all to be received",
    )
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(60) == 0
    assert len(daemon.rows()) == 1000
    process.kill()


def test_a_backend_that_does_not_exist_is_named_and_the_others_go_on(daemon, ranks):
    (process,) = ranks.start(
        """
from tracker_client import setup_tracker
with setup_tracker("unknown", backends="csv,nosuch") as tracker:
    tracker.log({"x": 1.0}, step=0)
""",
        [0],
        1,
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "'nosuch'" in err
    daemon.stop()
    assert len(daemon.rows()) == 1


ENDLESS = """
import signal
from tracker_client import setup_tracker
tracker = setup_tracker("p")
tracker.log({"x": 1.0}, step=0)
tracker.run_id
print("joined", flush=True)
signal.pause()
"""


@pytest.mark.parametrize(("arguments", "status"), [((), "RUNNING"), (("--exit-status", "3"), "FAILED")])
def test_stopping_leaves_runs_running_unless_their_job_is_over(daemon, ranks, arguments, status):
    """Without the job's exit status the daemon may be started again, and the ranks come back."""
    (process,) = ranks.start(ENDLESS, [0], 1)
    assert process.stdout.readline() == "joined\n"
    command = [sys.executable, "-m", "tracker_daemon", "stop", "--endpoint-file", str(daemon.endpoint_file)]
    subprocess.run([*command, *arguments], check=True, timeout=60)
    (run,) = daemon.last_status()["runs"]
    assert run["status"] == status
    if status == "RUNNING":
        assert run["reason"] is None
    else:
        assert re.fullmatch(r"rank 0 on .* exited with code 3", run["reason"])
