"""Warnings of many ranks, as their users see them: once, with the product's name and the ranks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.daemon_tree import planted, variables

AFTER_THE_PRIMARY = """
import os, subprocess, sys
if "RANK" not in os.environ:
    for rank in "01":
        environ = {**os.environ, "RANK": rank, "WORLD_SIZE": "2"}
        subprocess.run([sys.executable, __file__], env=environ, check=True)
    sys.exit()
from tracker_client import setup_tracker
tracker = setup_tracker("warnings", handle_timeout=60)
tracker.log({"loss": 1.0})
if os.environ["RANK"] == "1":
    tracker.log({"figure": object()})
    tracker.log_table("samples", ["a"], [[1]])
tracker.finish(wait="recorded")
"""


def test_warnings_after_the_primary_rank_s_end_are_shown_by_run_and_are_in_the_status(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(AFTER_THE_PRIMARY)
    tracker_daemon = [sys.executable, "-m", "tracker_daemon"]
    run = [*tracker_daemon, "run", "--backends", "csv", "--outdir", str(tmp_path / "out")]
    done = subprocess.run(
        [*run, "--", sys.executable, str(script)], env=variables(), capture_output=True, text=True, check=True
    )
    lines = done.stderr.splitlines()
    for cause in ("'figure'", "'samples': tables, images"):
        beginnings = [line.partition(f" {cause}")[0] for line in lines if cause in line]
        assert beginnings == ["tracker-daemon: rank 1:"], lines
    (entry,) = json.loads((tmp_path / "out/.tracker/last-status.json").read_text())["runs"]
    events = [event["text"] for event in entry["events"]]
    for cause in ("rank 1: 'figure'", "rank 1: 'samples'"):
        assert sum(text.startswith(cause) for text in events) == 1, events


SCRIPT = """
import os, sys
from tracker_client import setup_tracker
tracker = setup_tracker("warnings", backends="csv")
for step in range(3):
    tracker.log({"loss": 1.0, "figure": object()}, step=step)
assert tracker.run_id
print("logged", flush=True)
sys.stdin.readline()
tracker.finish()
"""


def lines_until(stream, wanted):
    lines = []
    while True:
        lines.append(stream.readline())
        assert lines[-1], lines
        if wanted in lines[-1]:
            return lines


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_cause_of_all_ranks_is_shown_once_by_the_primary_with_the_ranks(ranks, world_size):
    processes = ranks.start(SCRIPT, range(world_size), world_size)
    for process in processes:
        assert process.stdout.readline() == "logged\n"
    named = f"tracker-daemon: ranks 0-{world_size - 1}:" if world_size > 1 else "tracker-daemon, rank 0:"
    seen = lines_until(processes[0].stderr, named)
    errors = [process.communicate("\n")[1] for process in processes]
    errors[0] = "".join(seen) + errors[0]
    assert errors[0].count("'figure'") <= 2  # the second one is the count at the end
    assert all("'figure'" not in error for error in errors[1:]), errors
    assert all(line.startswith("tracker-daemon") for error in errors for line in error.splitlines()), errors


def test_warnings_of_ranks_behind_nodes_reach_the_primary_as_one(make_daemon):
    with planted(make_daemon) as tree:
        processes = tree.start(SCRIPT)
        for process in processes:
            assert process.stdout.readline() == "logged\n"
        lines_until(processes[0].stderr, f"tracker-daemon: ranks 0-{tree.world_size - 1}: 'figure'")
        errors = [process.communicate("\n")[1] for process in processes]
    assert all("'figure'" not in error for error in errors[1:]), errors
