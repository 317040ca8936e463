"""Two hosts: network namespaces with a wire between them, each with a host name of its own."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

PATIENCE_S = 120.0
PORT = 7007  # both namespaces are the test's own
RUN = (sys.executable, "-m", "tracker_daemon", "run")
ROOT = (sys.executable, "-m", "tracker_daemon", "serve")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2")
TWO_RANKS = (
    "sh", "-c", 'for r in 0 1; do RANK=$((2 * NODE_RANK + r)) LOCAL_RANK=$r "$0" train.py & done; wait',
    sys.executable,
)  # fmt: skip
"""A launcher that begins at once; torchrun imports torch."""
LAUNCH = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29511"}
SCRIPT = """
import os
from tracker_client import setup_tracker
with setup_tracker(project_name="nodes") as tracker:
    for step in range(20):
        tracker.log({"loss": float(step + int(os.environ["RANK"]))}, step=step)
"""


@dataclass
class Node:
    """One host."""

    namespace: str
    name: str
    home: Path
    environ: dict[str, str]
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *command: str, **environ: str) -> subprocess.Popen[str]:
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name, *command]
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, *named], cwd=self.home, env=self.environ | environ,
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> str:
        shown, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, f"{self.name}: {shown}"
        return shown

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare"))):
        pytest.skip("network namespaces need root, ip and unshare")
    names = [f"td{os.getpid()}{letter}" for letter in "ab"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRACKER_")}
    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "link", "add", "hsn0", "type", "veth", "peer", "name", "hsn0", "netns", names[1])
        # An address of the first that the second cannot reach, as the bridge of a container engine has.
        ip("-n", names[0], "link", "add", "abroad", "type", "veth", "peer", "name", "nowhere")
        ip("-n", names[0], "address", "add", "172.30.0.1/24", "dev", "abroad")
        ip("-n", names[0], "link", "set", "abroad", "up")
        for number, name in enumerate(names, start=1):
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "hsn0")
            ip("-n", name, "address", "add", f"fd77::{number}/64", "dev", "hsn0", "nodad")
            ip("-n", name, "link", "set", "hsn0", "up")
            home = tmp_path / f"home{number}"
            home.mkdir()
            (home / "train.py").write_text(SCRIPT)
            made.append(Node(name, f"node{number}", home, inherited | {"TRACKER_BACKENDS": "csv"}))
        yield made[0], made[1]
    finally:
        for node in made:
            node.end()
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def metrics(home: Path) -> Path:
    """The rows of the run that began last: in ``home`` if that was named, or below a project's name."""
    runs = home / "tracker-runs"
    links = [runs / "latest", *runs.glob("*/latest")]
    latest = next((link for link in links if link.is_symlink()), home)
    return latest / "metrics.csv"


def rows(directory: Path) -> list[tuple[str, str, str]]:
    with metrics(directory).open(newline="") as file:
        return [(row["step"], row["loss/mean"], row["loss/max"]) for row in csv.DictReader(file)]


EXPECTED = [(str(n), f"{n + 1.5}", f"{n + 3}.0") for n in range(20)]


def test_a_further_node_joins_the_daemon_of_the_first_without_any_shared_file(
    nodes: tuple[Node, Node],
) -> None:
    first, second = nodes
    token = {"TRACKER_TOKEN": "a-token-that-all-nodes-have"}
    there = ("--master-addr", "10.77.0.1", "--master-port", "29511")
    run = [*RUN, "--listen", f"[::]:{PORT}", "--tls", "--", *TORCHRUN, *there, "--node-rank"]
    one = first.start(*run, "0", "train.py", **token)
    root = first.home / "tracker-runs" / ".tracker" / "tls-cert.pem"
    wait_until(lambda: root.exists() and root.stat().st_size, "the certificate")
    copied = second.home / "root.pem"
    copied.write_bytes(root.read_bytes())
    join = [*RUN, "--join", f"[fd77::1]:{PORT}", "--", *TORCHRUN, *there, "--node-rank", "1", "train.py"]
    two = second.start(*join, **token, NODE_RANK="1", TRACKER_TLS_ROOT=str(copied))
    second.finish(two)
    shown = first.finish(one)
    assert "FINISHED, 20 records" in shown
    assert rows(first.home) == EXPECTED
    assert not (second.home / "tracker-runs").exists(), "a node that joins starts no daemon"
    (run,) = json.loads((first.home / "tracker-runs/.tracker/last-status.json").read_text())["runs"]
    assert [(rank["rank"], rank["host"]) for rank in run["ranks"]] == [
        (0, "node1"), (1, "node1"), (2, "node2"), (3, "node2"),
    ]  # fmt: skip


def test_daemons_of_both_hosts_forward_one_launch_to_a_root(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    token = {"TRACKER_TOKEN": "a-token-that-all-nodes-have"}
    root = first.start(*ROOT, "--listen", f"10.77.0.1:{PORT}", "--state-dir", "root", **token)
    forward = [*RUN, "--upstream", f"10.77.0.1:{PORT}", "--", *TWO_RANKS]
    two = second.start(*forward, **token, **LAUNCH, NODE_RANK="1")
    one = first.start(*forward, **token, **LAUNCH, NODE_RANK="0")
    assert "batches of 1 metric for the root" in second.finish(two)
    first.finish(one)
    wait_until(lambda: metrics(first.home).exists(), "the rows")
    root.terminate()
    first.finish(root)
    assert rows(first.home) == EXPECTED
    (run,) = json.loads((first.home / "root/last-status.json").read_text())["runs"]
    assert run["status"] == "FINISHED"
    assert sorted(node["host"] for node in run["nodes"]) == ["node1", "node2"]


def test_a_node_s_daemon_joins_the_launch_of_the_first_node_s_run(nodes: tuple[Node, Node]) -> None:
    first, second = nodes
    token = {"TRACKER_TOKEN": "a-token-that-all-nodes-have"}
    listen = ("--listen", f"0.0.0.0:{PORT}", "--tls")
    one = first.start(*RUN, *listen, "--", *TWO_RANKS, **token, **LAUNCH, NODE_RANK="0")
    root = first.home / "tracker-runs" / ".tracker" / "tls-cert.pem"
    wait_until(lambda: root.exists() and root.stat().st_size, "the certificate")
    above = ("--upstream", f"10.77.0.1:{PORT}", "--upstream-tls-root", str(root))
    second.finish(second.start(*RUN, *above, "--", *TWO_RANKS, **token, **LAUNCH, NODE_RANK="1"))
    assert "FINISHED, 20 records" in first.finish(one)
    assert rows(first.home) == EXPECTED


CUT_OFF = """
import os, sys
from tracker_client import setup_tracker
with setup_tracker(project_name="nodes") as tracker:
    print(tracker.run_id, flush=True)
    for step, _ in enumerate(sys.stdin):
        tracker.log({"loss": float(step + int(os.environ["RANK"]))}, step=step)
"""


@pytest.mark.long
def test_a_node_that_is_cut_off_keeps_what_its_ranks_log_until_it_is_back(nodes: tuple[Node, Node]) -> None:
    """The wire is cut, so that each side's connection is half open: only keepalive tells."""
    first, second = nodes
    token = {"TRACKER_TOKEN": "a-token-that-all-nodes-have"}
    patient = ("--lost-timeout-s", "600", "--partial-after-s", "600")
    root = first.start(*ROOT, "--listen", f"10.77.0.1:{PORT}", "--state-dir", "root", *patient, **token)
    second.start(
        *ROOT, "--upstream", f"10.77.0.1:{PORT}", "--endpoint-file", "e.json", "--state-dir", "s", **token
    )
    endpoint = second.home / "e.json"
    wait_until(endpoint.exists, "the node's daemon")
    (second.home / "cut_off.py").write_text(CUT_OFF)
    launch = {"TRACKER_LAUNCH_ID": "one", "WORLD_SIZE": "2", "TRACKER_ENDPOINT_FILE": str(endpoint)}
    ranks = [
        second.start(sys.executable, "cut_off.py", **launch, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in (0, 1)
    ]
    for rank in ranks:
        rank.stdout.readline()
    say(ranks, 5)
    wait_until(lambda: metrics(first.home).exists() and len(rows(first.home)) == 5, "five rows")
    ip("-n", second.namespace, "link", "set", "hsn0", "down")
    say(ranks, 5)
    wait_until(lambda: "not connected" in status(first, "root"), "the root to miss the node", 120.0)
    say(ranks, 5)
    ip("-n", second.namespace, "link", "set", "hsn0", "up")
    say(ranks, 5)
    for rank in ranks:
        rank.stdin.close()
        rank.stdin = None  # so that communicate() does not flush it
    wait_until(lambda: len(rows(first.home)) == 20, "the others", 120.0)
    for rank in ranks:
        second.finish(rank)
    root.terminate()
    first.finish(root)
    assert rows(first.home) == [(str(n), f"{n + 0.5}", f"{n + 1}.0") for n in range(20)]


def say(ranks: list[subprocess.Popen[str]], steps: int) -> None:
    for rank in ranks:
        rank.stdin.write("\n" * steps)
        rank.stdin.flush()


def status(node: Node, state_dir: str) -> str:
    command = [sys.executable, "-m", "tracker_daemon", "status", "--state-dir", state_dir]
    return node.finish(node.start(*command))


def test_ranks_of_two_hosts_find_the_daemon_of_rank_0_in_a_directory_that_they_share(
    nodes: tuple[Node, Node],
) -> None:
    shared = nodes[0].home
    launch = {"TRACKER_LAUNCH_ID": "one", "WORLD_SIZE": "4", "TRACKER_OUTDIR": str(shared)}
    launch |= {"TRACKER_IDLE_TIMEOUT_S": "1", "TRACKER_INTERFACE": "abroad"}
    started = [
        (node, node.start(sys.executable, f"{shared}/train.py", **launch, RANK=str(rank), LOCAL_RANK="0"))
        for rank, node in enumerate([nodes[0], nodes[0], nodes[1], nodes[1]])
    ]
    for node, process in started:
        assert node.finish(process) == ""
    launch_files = (shared / ".tracker").glob
    wait_until(lambda: not list(launch_files("launch-*.json")), "the daemon to end by itself")
    assert rows(shared) == EXPECTED
    status = json.loads((shared / ".tracker/last-status.json").read_text())
    hosts = [address.partition(":")[0] for address in status["daemon"]["endpoints"]]
    assert hosts == ["172.30.0.1", "10.77.0.1"], "the first leads nowhere from the second host"
