"""SIGKILL of a root and of the nodes' daemons that forward to it: every cell is recorded, and once."""

from __future__ import annotations

import itertools

from tests.support.daemon_tree import planted
from tests.support.ranks import finish
from tests.support.streaming import SCRIPT, STEPS_A_TURN, WORLD, assert_every_cell_is_there_once, logged, tell
from tests.support.waiting import wait_until

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
            wait_until(lambda before=before: acknowledged(tree) > before, "the nodes to be acknowledged")
            tell(processes, f"{STEPS_A_TURN}\n")
            killed = [daemons[name] for name in victims.split()]
            for daemon in killed:
                daemon.kill()
            logged(processes)
            for daemon in killed:
                daemon.start()
        tell(processes, "end\n")
        for process in processes:
            assert finish(process) == "0 0\n"
        run = tree.await_end()
        tree.stop()
    assert_every_cell_is_there_once(tree.root.rows(), run["books"], 2 * kills * STEPS_A_TURN)
