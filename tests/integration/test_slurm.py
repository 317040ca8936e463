"""The Slurm recipe, submitted as it stands to a real Slurm with two nodes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hosts.slurm_cluster import SlurmCluster
from tests.support.waiting import wait_until

RECIPE = Path(__file__).parents[2] / "deploy" / "slurm" / "job.sbatch"
STEPS = 50
TRAINING = f"""
import os, time
from tracker_client import setup_tracker
first = int(os.environ.get("SLURM_RESTART_COUNT", 0)) == 0
with setup_tracker("slurm", backends="csv") as tracker:
    for step in range(0 if first else {STEPS} - 10, {STEPS} if first else {STEPS} + 10):
        tracker.log({{"x": float(step)}}, step=step)
    while first and "HOLD" in os.environ:
        time.sleep(0.1)
"""

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        shutil.which("slurmctld") is None or shutil.which("slurmd") is None or os.getuid() != 0,
        reason="Slurm's daemons, and root, are needed",
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm")).start()
    yield cluster
    cluster.stop()


class Job:
    """The recipe, submitted from a directory of its own; two ranks on each node."""

    def __init__(self, cluster: SlurmCluster, directory: Path, **environ: str) -> None:
        self.cluster = cluster
        (directory / "train.py").write_text(TRAINING)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.id = cluster.command(
            "sbatch", "--parsable", "--ntasks-per-node=2", str(RECIPE), cwd=directory, PATH=path, **environ
        )
        self.outdir = directory / "runs" / self.id
        self.output = directory / f"slurm-{self.id}.out"

    def await_state(self, *states: str) -> None:
        wait_until(
            lambda: self.cluster.state(self.id) in states, f"{self.id} to be {' or '.join(states)}", 180
        )

    def await_steps(self) -> None:
        wait_until(lambda: len(self.rows()) == STEPS, "all steps to be recorded", 180)

    def rows(self) -> list[dict[str, str]]:
        path = self.outdir / "metrics.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if row.get("x/mean")]

    def run(self) -> dict[str, object]:
        """The run, as the last daemon left it."""
        document = json.loads((self.outdir / ".tracker" / "last-status.json").read_text())
        (run,) = document["runs"]
        assert sum(backend["pending"] for backend in run["backends"]) == 0
        return run


def test_the_ranks_of_both_nodes_meet_in_the_run_of_the_job(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = Job(cluster, tmp_path)
    job.await_state("COMPLETED", "FAILED")
    assert cluster.state(job.id) == "COMPLETED", job.output.read_text() + cluster.log()
    run = job.run()
    assert (run["run_id"], run["status"], len(run["ranks"])) == (f"testing-{job.id}", "FINISHED", 4)
    assert Counter(int(row["step"]) for row in job.rows()) == Counter(range(STEPS))
    assert "FINISHED" in job.output.read_text()


def test_a_job_that_is_cancelled_ends_as_failed_with_all_that_was_logged(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    job = Job(cluster, tmp_path, HOLD="1")
    job.await_steps()
    cluster.command("scancel", job.id)
    job.await_state("CANCELLED")
    wait_until(lambda: "FAILED" in job.output.read_text(), "the daemon to have summed up")
    run = job.run()
    assert run["status"] == "FAILED"
    assert f"0 on {socket.gethostname()} (last step {STEPS - 1})" in run["reason"]


def test_a_requeued_job_goes_on_in_its_run_from_its_checkpoint(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = Job(cluster, tmp_path, HOLD="1")
    job.await_steps()
    cluster.command("scontrol", "requeue", job.id)
    job.await_state("COMPLETED", "FAILED")
    run = job.run()
    assert (run["run_id"], run["status"], run["attempt"]) == (f"testing-{job.id}", "FINISHED", 2)
    attempts = [(row["attempt"], int(row["step"])) for row in job.rows()]
    both = [*(("", step) for step in range(STEPS)), *(("2", step) for step in range(STEPS - 10, STEPS + 10))]
    assert sorted(attempts) == sorted(both)
