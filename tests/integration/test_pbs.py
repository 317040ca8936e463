"""The PBS recipes, run as pbs_mom runs them: the scripts as they are installed, in a machine of its own."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.support.hosts.machine import Machine

PBS = Path(__file__).parents[2] / "deploy" / "pbs"
STEPS = 50
ENDLESS = 1_000_000  # the steps of the jobs that are killed
TRAINING = f"""
import os, signal
from tracker_client import setup_tracker
if "HANGS" in os.environ:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with setup_tracker("pbs", outdir=os.environ.get("OUTDIR"), backends="csv") as tracker:
    for step in range(int(os.environ.get("STEPS", {STEPS}))):
        tracker.log({{"x": float(step)}}, step=step)
        if step >= {STEPS}:  # endless
            import time; time.sleep(0.01)
"""

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-nspawn") is None or shutil.which("mpiexec") is None or os.getuid() != 0,
    reason="systemd-nspawn as root and mpiexec are needed",
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    machine = Machine(tmp_path_factory.mktemp("pbs"))
    mom = machine.root / "var/spool/pbs/mom_priv"
    mom.mkdir(parents=True)
    for name in ("prologue", "epilogue", "tracker_daemon_hook.py"):
        shutil.copy(PBS / name, mom)
    home = machine.root / "home/ada"
    shutil.copy(PBS / "job.pbs", home)
    (home / "train.py").write_text(TRAINING)
    (home / "bin").mkdir()
    (home / "bin" / "python").symlink_to(f"/opt/python/bin/{machine.python}")
    return machine


@pytest.fixture(scope="module")
def seen(machine: Machine):
    return json.loads(machine.run("tests.support.hosts.pbs_drive", 400))


def steps(machine: Machine, job: str) -> Counter[int]:
    (metrics,) = (machine.root / "home/ada/runs" / job).rglob("metrics.csv")  # in <project>/<time>-<name>
    with metrics.open(newline="") as file:
        return Counter(int(row["step"]) for row in csv.DictReader(file) if row["x/mean"])


def ended(saw: dict[str, object]) -> list[tuple[str, int]]:
    """Of each run: how it stands, and what was not delivered."""
    return [(run["status"], sum(b["pending"] for b in run["backends"])) for run in saw["runs"]]


def test_between_prologue_and_epilogue_a_job_is_recorded_by_a_daemon_of_its_user(seen, machine) -> None:
    saw = seen["prologue"]
    assert saw["prologue"][0] == 0
    assert saw["daemon"]["user"] == "ada"
    assert saw["job"] == 0
    assert saw["epilogue"] == [0, ""]
    assert saw["daemon_after"] is None
    assert ended(saw) == [("FINISHED", 0)]
    assert steps(machine, "1.pbs") == Counter(range(STEPS))


def test_a_job_that_is_killed_ends_as_failed_and_keeps_what_it_logged(seen, machine) -> None:
    saw = seen["prologue_killed"]
    assert saw["epilogue"] == [0, ""]
    assert saw["daemon_after"] is None
    assert ended(saw) == [("FAILED", 0)]
    recorded = steps(machine, "2.pbs")
    assert recorded
    assert recorded == Counter(range(len(recorded)))
    assert len(recorded) < ENDLESS  # killed amid, whatever mpiexec ends with: success too, after a SIGTERM


def test_a_daemon_that_cannot_start_does_not_keep_the_job_from_running(seen) -> None:
    status, output = seen["broken"]
    assert status == 0
    assert "not started for job 6.pbs" in output


def test_a_job_script_starts_and_ends_the_daemon_where_no_prologue_is(seen, machine) -> None:
    saw = seen["script"]
    assert saw["job"] == 0, saw["output"]
    assert saw["daemon_after"] is None
    assert ended(saw) == [("FINISHED", 0)]
    assert steps(machine, "3.pbs") == Counter(range(STEPS))


def test_at_walltime_the_job_script_ends_its_run_as_failed_within_the_grace(seen, machine) -> None:
    saw = seen["script_killed"]
    assert saw["job"] == 143, saw["output"]  # what a shell says of SIGTERM
    assert saw["daemon_after"] is None
    assert ended(saw) == [("FAILED", 0)]
    recorded = steps(machine, "4.pbs")
    assert recorded == Counter(range(len(recorded)))
    assert len(recorded) < ENDLESS


def test_the_hook_does_the_same_and_every_launched_process_finds_the_daemon(seen, machine) -> None:
    saw = seen["hook"]
    assert saw["notes"] == []
    assert saw["daemon"]["user"] == "ada"
    assert saw["job"] == 0
    assert saw["daemon_after"] is None
    assert ended(saw) == [("FINISHED", 0)]
    assert steps(machine, "5.pbs") == Counter(range(STEPS))
