"""A tree for tests: a root, and daemons that forward to it, each with some of the ranks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.ranks import Ranks, finish
from tests.support.waiting import wait_until

STEPWISE = """
import logging, os, sys
from tracker_client import setup_tracker
logging.basicConfig(format="%(message)s")
tracker = setup_tracker("tree", handle_timeout=60)
print(tracker.run_id, tracker.attempt, flush=True)
step = 0
for line in sys.stdin:
    tracker.log({"x": float(line)}, step=step)
    step += 1
tracker.finish()
"""
"""Logs a value for each line that it is given; says first which run and attempt it is of."""


@dataclass
class Tree:
    """``nodes`` daemons with ``per_node`` ranks each."""

    root: Any
    nodes: list[Any]
    per_node: int = 2
    ranks: list[Any] = field(default_factory=list)

    @property
    def world_size(self) -> int:
        return len(self.nodes) * self.per_node

    def start(self, script: str, ranks: range | None = None, **environ: str) -> list[subprocess.Popen[str]]:
        """Start the ranks, each at its node's daemon."""
        started = []
        for rank in ranks or range(self.world_size):
            at_node = Ranks(self.nodes[rank // self.per_node])
            started += at_node.start(script, [rank], self.world_size, **environ)
            self.ranks.append(at_node)
        return started

    def run(self, script: str, **environ: str) -> list[str]:
        """Run all ranks to their end; what each printed."""
        return [finish(process) for process in self.start(script, **environ)]

    def the_run(self) -> dict[str, Any]:
        """The one run, as the root sees it."""
        (run,) = self.root.status()["runs"]
        return run

    def await_end(self, status: str = "FINISHED") -> dict[str, Any]:
        """The run, once the root has ended it."""
        wait_until(lambda: self.the_run()["status"] != "RUNNING", "the root to end the run")
        run = self.the_run()
        assert run["status"] == status, run["reason"]
        return run

    def await_end_at_nodes(self) -> None:
        """Until every node's daemon has been told of the run's end."""
        for node in self.nodes:
            wait_until(lambda node=node: node.status()["runs"][0]["status"] != "RUNNING", "a node to be told")

    def stop(self) -> None:
        """End the nodes' daemons and then the root, as a job does."""
        for node in self.nodes:
            assert node.stop() == 0, node.log()
        assert self.root.stop() == 0, self.root.log()

    def kill_ranks(self) -> None:
        for ranks in self.ranks:
            for process in ranks.processes:
                if process.poll() is None:
                    process.kill()
                process.communicate()


@contextmanager
def planted(
    make_daemon: Callable[..., Any], *root_flags: str, nodes: int = 2, per_node: int = 2
) -> Iterator[Tree]:
    """A tree that is ready; its ranks end with it."""
    root = make_daemon("--backends", "csv", *root_flags)
    made = [make_daemon("--upstream", str(root.endpoint_file)) for _ in range(nodes)]
    tree = Tree(root, made, per_node)
    try:
        yield tree
    finally:
        tree.kill_ranks()


def say(process: subprocess.Popen[str], line: str) -> None:
    """Tell a rank that reads its instructions."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def heard(process: subprocess.Popen[str]) -> str:
    """What a rank has written to stderr since it was asked last."""
    os.set_blocking(process.stderr.fileno(), False)
    try:
        return os.read(process.stderr.fileno(), 65_536).decode()
    except BlockingIOError:
        return ""


def variables(**given: str) -> dict[str, str]:
    """An environment without what a daemon's tests may have left in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TRACKER_")} | given
