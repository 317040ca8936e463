"""Lightning's own launcher: the script's first process starts the others, before or after its set-up.

``launch`` sets the variables that Lightning's ``_SubprocessScriptLauncher`` sets, and starts the same script.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE_S

LAUNCH = """
import os, subprocess, sys, time
from tracker_client import setup_tracker

def launch(devices):
    if "LOCAL_RANK" in os.environ:
        return []
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "41234", "NODE_RANK": "0", "LOCAL_RANK": "0",
                   "WORLD_SIZE": str(devices)}
    return [
        subprocess.Popen([sys.executable, *sys.argv], env=os.environ | {"LOCAL_RANK": str(rank)})
        for rank in range(1, devices)
    ]

def train(tracker):
    rank = int(os.environ["LOCAL_RANK"])
    os.write(1, f"{rank} {tracker.run_id}\\n".encode())
    open(f"set up {rank}", "w").close()
    while not all(os.path.exists(f"set up {other}") for other in range(int(os.environ["WORLD_SIZE"]))):
        time.sleep(0.01)  # as the process group, which all of them must join first
    for step in range(10):
        tracker.log({"loss": float(rank)}, step=step)

def evaluate():
    if os.environ["LOCAL_RANK"] == "0":
        subprocess.run([sys.executable, "evaluate.py"], check=True)
"""
BEFORE = """
tracker = setup_tracker("lightning", handle_timeout=60)
children = launch(3)
train(tracker)
evaluate()
"""
AFTER = """
children = launch(3)
tracker = setup_tracker("lightning", handle_timeout=60)
train(tracker)
evaluate()
"""
END = """
tracker.finish()
assert [child.wait() for child in children] == [0] * len(children)
"""
EVALUATE = """
from tracker_client import setup_tracker
with setup_tracker("evaluation", handle_timeout=60) as tracker:
    tracker.log({"accuracy": 0.5}, step=0)
    print("evaluated", tracker.run_id, flush=True)
"""


@pytest.mark.parametrize("setup", [BEFORE, AFTER], ids=["before the launch", "after the launch"])
@pytest.mark.parametrize("where", ["own daemon", "configured daemon"])
def test_the_ranks_of_lightning_s_launcher_meet_in_one_run(daemon, tmp_path, setup, where):
    (tmp_path / "train.py").write_text(LAUNCH + setup + END)
    (tmp_path / "evaluate.py").write_text(EVALUATE)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRACKER_")}
    environ = inherited | {"TRACKER_BACKENDS": "csv", "TRACKER_IDLE_TIMEOUT_S": "1"}
    if where == "configured daemon":
        environ["TRACKER_ENDPOINT_FILE"] = str(daemon.endpoint_file)
    script = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, env=environ, capture_output=True, text=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert script.returncode == 0, script.stderr
    words = sorted(line.split() for line in script.stdout.splitlines())
    assert [first for first, _ in words] == ["0", "1", "2", "evaluated"]
    ids = [run_id for _, run_id in words]
    assert len(set(ids[:3])) == 1
    assert ids[3] != ids[0]
    assert loss_of(tmp_path if where == "own daemon" else daemon.outdir) == [("0.0", "1.0")] * 10


def loss_of(directory: Path) -> list[tuple[str, str]]:
    """Rank 0's own loss and the mean, of the only run that has them."""
    tables = [list(csv.DictReader(path.open())) for path in directory.rglob("metrics.csv")]
    (rows,) = [rows for rows in tables if "loss" in rows[0]]
    return [(row["loss"], row.get("loss/mean", "")) for row in rows]
