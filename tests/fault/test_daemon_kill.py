"""SIGKILL of the daemon while four ranks stream: every cell is recorded, and once."""

from __future__ import annotations

import json

import pytest

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
WORLD, STEPS_A_TURN = 4, 400


def tell(processes, text):
    for process in processes:
        process.stdin.write(text)
        process.stdin.flush()


def logged(processes):
    return [int(process.stdout.readline()) for process in processes]


def acknowledged(daemon):
    runs = daemon.status()["runs"]
    return min((rank["next_sequence"] for rank in runs[0]["ranks"]), default=0) if runs else 0


def test_every_cell_is_recorded_once_though_the_daemon_is_killed(daemon, ranks, kills):
    processes = ranks.start(STREAMING, range(WORLD), WORLD)
    for turn in range(kills):
        tell(processes, f"{STEPS_A_TURN}\n")
        logged(processes)
        # In the midst of things: the first turn's data is partly journalled, partly on its way.
        pytest.wait_until(lambda turn=turn: acknowledged(daemon) > turn, "the ranks to be acknowledged again")
        tell(processes, f"{STEPS_A_TURN}\n")
        daemon.kill()
        logged(processes)
        daemon.start()
    tell(processes, "end\n")
    for process in processes:
        assert pytest.finish(process) == "0 0\n"
    assert daemon.stop() == 0

    steps = 2 * kills * STEPS_A_TURN
    rows = daemon.rows()
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
    (run,) = daemon.last_status()["runs"]
    assert run["status"] == "FINISHED"
    books = run["books"]
    assert books["received"] == steps * WORLD * 2 == books["folded"]


def test_a_daemon_keeps_its_token_and_its_runs_over_a_restart(daemon, ranks):
    token = daemon.endpoint["token"]
    processes = ranks.start(STREAMING, range(2), 2)
    tell(processes, "10\n")
    logged(processes)
    pytest.wait_until(lambda: acknowledged(daemon) > 1, "the ranks to be acknowledged")
    before = daemon.status()["runs"][0]["run_id"]
    daemon.kill()
    daemon.start()
    assert daemon.endpoint["token"] == token
    assert [run["run_id"] for run in daemon.status()["runs"]] == [before]
    tell(processes, "end\n")
    for process in processes:
        pytest.finish(process)
    (run,) = daemon.status()["runs"]
    assert (run["run_id"], run["status"]) == (before, "FINISHED")
    assert json.loads(json.dumps(run["books"]))["received"] == 2 * 10 * 2
