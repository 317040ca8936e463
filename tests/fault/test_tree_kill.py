"""SIGKILL of a root and of the nodes' daemons that forward to it: every cell is recorded, and once."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from daemon_tree import planted

STREAMING = """
import os, sys
from tracker_client import setup_tracker

rank = int(os.environ["RANK"])
tracker = setup_tracker("killed", config={"rank": rank})
step = 0
for line in sys.stdin:
    if line == "end\\n":
        break
    for _ in range(int(line)):
        tracker.log({"loss": step + rank / 8, f"own/{rank}": float(step)}, step=step)
        step += 1
    print(step, flush=True)
tracker.finish(timeout=50)
status = tracker.status()
print(status.unacknowledged_points + status.buffered_points, status.dropped_points)
"""
STEPS_A_TURN = 400
# In turns: one of the three, two at once, and all of them.
VICTIMS = ("root", "node0", "node1", "node0 node1", "root node0", "root node0 node1")


def tell(processes, text):
    for process in processes:
        process.stdin.write(text)
        process.stdin.flush()


def logged(processes):
    return [int(process.stdout.readline()) for process in processes]


def acknowledged(tree):
    """How far the node that is furthest behind has come at the root."""
    (run,) = tree.root.status()["runs"] or [{"nodes": []}]
    return min((node["next_sequence"] for node in run["nodes"]), default=0) if len(run["nodes"]) > 1 else 0


def test_every_cell_is_recorded_once_though_root_and_nodes_are_killed(make_daemon, kills):
    with planted(make_daemon) as tree:
        daemons = {"root": tree.root, "node0": tree.nodes[0], "node1": tree.nodes[1]}
        processes = tree.start(STREAMING)
        for victims in itertools.islice(itertools.cycle(VICTIMS), kills):
            before = acknowledged(tree)
            tell(processes, f"{STEPS_A_TURN}\n")
            logged(processes)
            pytest.wait_until(
                lambda before=before: acknowledged(tree) > before, "the nodes to be acknowledged"
            )
            tell(processes, f"{STEPS_A_TURN}\n")
            killed = [daemons[name] for name in victims.split()]
            for daemon in killed:
                daemon.kill()
            logged(processes)
            for daemon in killed:
                daemon.start()
        tell(processes, "end\n")
        for process in processes:
            assert pytest.finish(process) == "0 0\n"
        run = tree.await_end()
        tree.stop()

    steps, world = 2 * kills * STEPS_A_TURN, tree.world_size
    rows = tree.root.rows()
    cells = [
        (int(row["step"]), name) for row in rows for name, value in row.items() if value and name != "step"
    ]
    assert len(cells) == len(set(cells))
    seen = set(cells)
    for step in range(steps):
        assert seen >= {(step, f"loss{suffix}") for suffix in ("", "/mean", "/min", "/max", "/std")}
        assert seen >= {(step, f"own/{rank}") for rank in range(world)}
    means = {int(row["step"]): float(row["loss/mean"]) for row in rows if row["loss/mean"]}
    assert all(mean == step + 3 / 16 for step, mean in means.items())
    assert run["books"]["received"] == steps * world * 2 == run["books"]["folded"]
