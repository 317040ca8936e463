"""SIGKILL of a root and of the nodes' daemons that forward to it: every cell is recorded, and once."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from daemon_tree import planted
from streaming import SCRIPT, STEPS_A_TURN, WORLD, assert_every_cell_is_there_once, logged, tell

# In turns: one of the three, two at once, and all of them.
VICTIMS = ("root", "node0", "node1", "node0 node1", "root node0", "root node0 node1")


def acknowledged(tree):
    """How far the node that is furthest behind has come at the root."""
    (run,) = tree.root.status()["runs"] or [{"nodes": []}]
    return min((node["next_sequence"] for node in run["nodes"]), default=0) if len(run["nodes"]) > 1 else 0


def test_every_cell_is_recorded_once_though_root_and_nodes_are_killed(make_daemon, kills):
    with planted(make_daemon) as tree:
        daemons = {"root": tree.root, "node0": tree.nodes[0], "node1": tree.nodes[1]}
        assert tree.world_size == WORLD
        processes = tree.start(SCRIPT)
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
    assert_every_cell_is_there_once(tree.root.rows(), run["books"], 2 * kills * STEPS_A_TURN)
