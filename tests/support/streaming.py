"""Ranks that log in turns, as they are told, and what must be recorded of all their turns together."""

from __future__ import annotations

SCRIPT = """
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
WORLD, STEPS_A_TURN = 4, 400


def tell(processes, text):
    for process in processes:
        process.stdin.write(text)
        process.stdin.flush()


def logged(processes):
    return [int(process.stdout.readline()) for process in processes]


def assert_every_cell_is_there_once(rows, books, steps):
    """Of ``steps`` steps of all ranks."""
    cells = [
        (int(row["step"]), name) for row in rows for name, value in row.items() if value and name != "step"
    ]
    assert len(cells) == len(set(cells))
    seen = set(cells)
    for step in range(steps):
        assert seen >= {(step, f"loss{suffix}") for suffix in ("", "/mean", "/min", "/max", "/std")}
        assert seen >= {(step, f"own/{rank}") for rank in range(WORLD)}
    means = {int(row["step"]): float(row["loss/mean"]) for row in rows if row["loss/mean"]}
    assert all(mean == step + 3 / 16 for step, mean in means.items())
    assert books["received"] == steps * WORLD * 2 == books["folded"]
