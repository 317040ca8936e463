"""From ``log`` in real rank processes to rows of metrics.csv, through a real daemon."""

from __future__ import annotations

import json
import math

import numpy as np

from tests.support.ranks import Ranks, finish
from tests.support.waiting import wait_until

# Every rank logs random values and writes what it logged, so that the test can compute what must come out.
LOGGING = """
import json, os, random
from tracker_client import setup_tracker

rank, steps = int(os.environ["RANK"]), int(os.environ["STEPS"])
random.seed(rank)
own = []
with setup_tracker("pipeline", config={"steps": steps}) as tracker:
    for step in range(steps):
        metrics = {"loss": random.gauss(0, 1), "grad_norm": random.expovariate(1) * 10.0 ** rank}
        tracker.log(metrics, step=step)
        own.append([step, metrics])
    if rank == 0:
        tracker.log({"eval/accuracy": 0.5}, step=steps - 1)
print(json.dumps(own))
"""


def values_by_step(outputs, metric):
    """(steps, ranks) array of what the ranks say that they logged."""
    logged = [json.loads(out) for out in outputs]
    return np.array([[metrics[metric] for _, metrics in rank] for rank in logged]).T


def assert_is_numpy_over_ranks(rows, metric, values):
    scale = np.abs(values).max(axis=1)
    assert len(rows) == len(values)
    for row, x, most in zip(rows, values, scale, strict=True):
        assert float(row[metric]) == x[0]
        assert float(row[f"{metric}/min"]) == x.min()
        assert float(row[f"{metric}/max"]) == x.max()
        assert abs(float(row[f"{metric}/mean"]) - x.mean()) <= 1e-12 * most
        tolerance = 1e-12 * x.std() + 8 * np.finfo(float).eps * most
        assert abs(float(row[f"{metric}/std"]) - x.std()) <= tolerance


def test_four_ranks_make_one_run_whose_aggregates_are_those_of_numpy(daemon, ranks):
    outputs = ranks.run(LOGGING, 4, STEPS="200")
    assert daemon.stop() == 0
    rows = daemon.rows()
    assert [int(row["step"]) for row in rows] == list(range(200))
    for metric in ("loss", "grad_norm"):
        assert_is_numpy_over_ranks(rows, metric, values_by_step(outputs, metric))
    assert [row["eval/accuracy"] for row in rows] == [""] * 199 + ["0.5"]
    assert json.loads((daemon.outdir / "config.json").read_text()) == {"steps": 200}
    (run,) = daemon.last_status()["runs"]
    assert run["status"] == "FINISHED"
    assert {rank["state"] for rank in run["ranks"]} == {"finished"}


def test_the_books_balance_in_the_status(daemon, ranks):
    ranks.run(LOGGING, 3, STEPS="50")
    (run,) = daemon.status()["runs"]
    books = run["books"]
    assert books["received"] == 3 * 50 * 2 + 1
    assert books["received"] == books["folded"] + books["open"] + books["late"] + books["rejected"]
    for backend in run["backends"]:
        assert run["records"]["emitted"] == sum(backend[k] for k in ("delivered", "pending", "set_aside"))


def test_nothing_closes_before_ranks_that_come_late(daemon, ranks):
    """Rank 0 logs 300 steps before the other ranks connect."""
    script = """
import os, sys
from tracker_client import setup_tracker
rank = int(os.environ["RANK"])
tracker = setup_tracker("early")
for step in range(300):
    tracker.log({"loss": float(step + rank)}, step=step)
print("logged", flush=True)
if rank == 0:
    sys.stdin.readline()
tracker.finish()
"""
    (first,) = ranks.start(script, [0], 4)
    assert first.stdout.readline() == "logged\n"
    wait_until(lambda: received(daemon) == 300, "the daemon to have what rank 0 logged")
    assert daemon.status()["runs"][0]["records"]["emitted"] == 0
    others = ranks.start(script, [1, 2, 3], 4)
    for process in others:
        finish(process)
    first.stdin.write("\n")
    finish(first)
    daemon.stop()
    rows = daemon.rows()
    assert [int(row["step"]) for row in rows] == list(range(300))
    assert all(float(row["loss/mean"]) == float(row["loss"]) + 1.5 for row in rows)
    assert "loss/count" not in rows[0]


def received(daemon):
    runs = daemon.status()["runs"]
    return runs[0]["books"]["received"] if runs else 0


def test_the_primary_and_the_recorded_ranks_are_settings_of_the_run(make_daemon):
    daemon = make_daemon("--primary-rank", "1", "--record-ranks", "0,2-3")
    script = """
import os
from tracker_client import setup_tracker
with setup_tracker("recorded") as tracker:
    tracker.log({"loss": float(os.environ["RANK"])}, step=0)
"""
    Ranks(daemon).run(script, 4)
    daemon.stop()
    (row,) = daemon.rows()
    assert row["loss"] == "1.0"
    assert [row[f"loss/rank{rank}"] for rank in (0, 2, 3)] == ["0.0", "2.0", "3.0"]
    assert float(row["loss/mean"]) == 1.5


def test_a_killed_rank_is_reported_and_the_others_go_on(make_daemon):
    """Its run fails, naming it; its data and the others' are there."""
    daemon = make_daemon("--lost-timeout-s", "1")
    script = """
import os, signal, sys, time
from tracker_client import setup_tracker
rank = int(os.environ["RANK"])
tracker = setup_tracker("killed")
for step in range(20):
    tracker.log({"loss": float(rank)}, step=step)
while rank == 2 and tracker.status().acknowledged_sequence == 0:
    time.sleep(0.01)
if rank == 2:
    print("acknowledged", flush=True)
    sys.stdin.readline()
for step in range(20, 40):
    tracker.log({"loss": float(rank)}, step=step)
tracker.finish()
"""
    ranks = Ranks(daemon)
    others = ranks.start(script, [0, 1], 3)
    (doomed,) = ranks.start(script, [2], 3)
    assert doomed.stdout.readline() == "acknowledged\n"
    doomed.kill()
    for process in others:
        finish(process)
    wait_until(lambda: daemon.status()["runs"][0]["status"] == "FAILED", "the run to have failed")
    (run,) = daemon.status()["runs"]
    assert "rank 2" in run["reason"]
    daemon.stop()
    rows = daemon.rows()
    assert [int(row["step"]) for row in rows] == list(range(40))
    assert all(float(row["loss/mean"]) == 1.0 for row in rows[:20])
    assert all(float(row["loss/mean"]) == 0.5 for row in rows[20:])
    assert all(float(row["loss/count"]) == 2 for row in rows[20:])


def test_not_a_number_and_infinity_go_through_as_numpy_lets_them(daemon, ranks):
    script = """
import os
from tracker_client import setup_tracker
rank = int(os.environ["RANK"])
with setup_tracker("numbers") as tracker:
    tracker.log({"a": float("nan") if rank else 1.0, "b": float("inf") if rank else 1.0}, step=0)
"""
    ranks.run(script, 2)
    daemon.stop()
    (row,) = daemon.rows()
    assert all(math.isnan(float(row[f"a/{kind}"])) for kind in ("mean", "min", "max", "std"))
    assert [float(row[f"b/{kind}"]) for kind in ("mean", "min", "max")] == [math.inf, 1.0, math.inf]
    assert math.isnan(float(row["b/std"]))
