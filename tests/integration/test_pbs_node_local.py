"""The PBS recipe with a daemon on each node, run as pbs_mom runs it: on two hosts of one machine."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support.hosts.machine import Machine
from tests.support.hosts.pbs_mom import GRACE_S
from tests.support.hosts.pbs_node_local_drive import STEPS

JOB_SCRIPT = Path(__file__).parents[2] / "deploy" / "pbs" / "job-node-local.pbs"
RANKS = [(0, "node1"), (1, "node1"), (2, "node2"), (3, "node2")]

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("systemd-nspawn", "mpiexec", "ip"))) or os.getuid() != 0,
    reason="systemd-nspawn as root, mpiexec and ip are needed",
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    machine = Machine(tmp_path_factory.mktemp("pbs"))
    home = machine.root / "home/ada"
    shutil.copy(JOB_SCRIPT, home)
    (home / "bin").mkdir()
    (home / "bin" / "python").symlink_to(f"/opt/python/bin/{machine.python}")
    return machine


@pytest.fixture(scope="module")
def seen(machine: Machine):
    return json.loads(machine.run("tests.support.hosts.pbs_node_local_drive", 300))


def rows(machine: Machine, job: str) -> list[dict[str, str]]:
    (metrics,) = (machine.root / "home/ada/runs" / job).rglob("metrics.csv")  # in <project>/<time>-<name>
    with metrics.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_job_s_ranks_are_recorded_together_through_the_daemons_of_their_nodes(seen, machine) -> None:
    saw = seen["ended"]
    assert saw["job"] == 0, saw["output"]
    assert saw["left"] == []
    assert saw["on_nodes"] == [["tracker-1.pbs"]] * 2
    (run,) = saw["runs"]
    assert (run["status"], [backend["pending"] for backend in run["backends"]]) == ("FINISHED", [0])
    assert [(rank["rank"], rank["host"]) for rank in run["ranks"]] == RANKS
    assert sorted(node["host"] for node in run["nodes"]) == ["node1", "node2"]
    recorded = [(int(row["step"]), float(row["x"]), float(row["x/mean"])) for row in rows(machine, "1.pbs")]
    assert recorded == [(step, step, step + 1.5) for step in range(STEPS)]


def test_at_walltime_the_run_ends_as_failed_and_nothing_runs_on_on_any_node(seen, machine) -> None:
    saw = seen["killed"]
    assert saw["job"] == 143, saw["output"]
    assert saw["took_s"] < GRACE_S
    assert saw["left"] == []
    (run,) = saw["runs"]
    assert (run["status"], [backend["pending"] for backend in run["backends"]]) == ("FAILED", [0])
    assert [(rank["rank"], rank["host"]) for rank in run["ranks"]] == RANKS
    recorded = rows(machine, "2.pbs")
    assert sorted(int(row["step"]) for row in recorded) == list(range(len(recorded)))
    complete = [row for row in recorded if not row.get("x/count")]
    assert len(complete) >= STEPS
    assert all(float(row["x/mean"]) == int(row["step"]) + 1.5 for row in complete)
