"""Torchrun with a number of nodes that changes: two agents of this host, of which one is replaced."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

SCRIPT = """
import os, pathlib, sys, time
from tracker_client import setup_tracker
marks = pathlib.Path("marks")
first = os.environ["RANK"] == "1" and not (marks / "replaced").exists()
(marks / f"begun-{os.environ['RANK']}-{os.getpid()}").touch()
if first:
    time.sleep(600)  # is killed before it has a tracker
tracker = setup_tracker("elastic", outdir="out", backends="csv")
print("attempt", tracker.attempt, flush=True)
for step in range(40):
    tracker.log({"loss": step + float(os.environ["RANK"])}, step=step)
    if not (marks / "replaced").exists():
        (marks / "recorded").touch()
        time.sleep(600)  # until the agent starts it again
tracker.finish()
"""


class Nodes:
    """Torchrun's agents, each as that of a node with one rank."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.agents: list[subprocess.Popen[bytes]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.endpoint = f"127.0.0.1:{free.getsockname()[1]}"

    def add(self, address: str) -> subprocess.Popen[bytes]:
        """Start an agent; agents are numbered in the order of their addresses."""
        options = [
            "--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d",
            f"--rdzv-endpoint={self.endpoint}", "--rdzv-id=elastic", f"--local-addr={address}",
            "--rdzv-conf=last_call_timeout=10",
        ]  # fmt: skip
        environ = {name: text for name, text in os.environ.items() if not name.startswith("TRACKER_")}
        with (self.home / f"agent{len(self.agents)}.log").open("wb") as log:
            agent = subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *options, "train.py"],
                cwd=self.home, env=environ, stdout=log, stderr=log,
            )  # fmt: skip
        self.agents.append(agent)
        return agent

    def can_meet(self) -> bool:
        """Return True once an agent serves the rendezvous."""
        host, _, port = self.endpoint.partition(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    def begun(self, rank: int) -> int:
        """Return how many processes have begun as this rank."""
        return len(list((self.home / "marks").glob(f"begun-{rank}-*")))


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "marks").mkdir()
    nodes = Nodes(tmp_path)
    yield nodes
    for agent in nodes.agents:
        if agent.poll() is None:
            agent.terminate()
        agent.wait()


@pytest.mark.long
def test_a_node_that_is_replaced_before_its_rank_had_a_tracker_is_in_the_next_attempt_with_the_others(
    nodes: Nodes,
) -> None:
    stays = nodes.add("localhost")
    wait_until(nodes.can_meet, "the first agent to serve the rendezvous")
    leaves = nodes.add("localhost")
    wait_until(lambda: nodes.begun(1), "both nodes to begin")
    wait_until((nodes.home / "marks" / "recorded").exists, "rank 0 to record")
    leaves.send_signal(signal.SIGTERM)
    leaves.wait()
    (nodes.home / "marks" / "replaced").touch()
    comes = nodes.add("127.0.0.1")  # is rank 0, and the one that stays rank 1, which had never connected
    assert (stays.wait(180), comes.wait(180)) == (0, 0)
    (run,) = json.loads((nodes.home / "out/.tracker/last-status.json").read_text())["runs"]
    assert (run["status"], run["attempt"], run["books"]["late"]) == ("FINISHED", 2, 0)
    with (nodes.home / "out" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["attempt"] == "2"]
    assert [row["loss/mean"] for row in rows] == [f"{step}.5" for step in range(40)]
