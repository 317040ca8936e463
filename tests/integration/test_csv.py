"""The CSV files of real runs, over restarts of the daemon."""

from __future__ import annotations

import json

from tests.support.ranks import finish
from tests.support.waiting import wait_until

TURNS = """
import json, sys
from tracker_client import setup_tracker
tracker = setup_tracker("csv", config={"first": 1})
for line in sys.stdin:
    step, metrics = json.loads(line)
    tracker.log(metrics, step=step)
    tracker.log_config({f"at/{step}": step})
    print("logged", flush=True)
tracker.finish()
"""


def turn(process, step, **metrics):
    process.stdin.write(json.dumps([step, metrics]) + "\n")
    process.stdin.flush()
    process.stdout.readline()


def received(daemon):
    return sum(run["books"]["received"] for run in daemon.status()["runs"])


def test_columns_that_come_later_extend_the_header_and_older_rows_read_empty(daemon, ranks):
    (process,) = ranks.start(TURNS, [0], 1)
    for step in range(6):
        # A new metric at each step, so that each restart is followed by a new generation of the file.
        turn(process, step, loss=step, **{f"new/{step}": step})
        if step % 2:
            wait_until(lambda step=step: received(daemon) == 2 * (step + 1), "the step to be received")
            daemon.kill()
            daemon.start()
    finish(process)
    daemon.stop()
    rows = daemon.rows()
    assert [row["step"] for row in rows] == [str(step) for step in range(6)]
    assert list(rows[0]) == ["step", "loss", *(f"new/{step}" for step in range(6))]
    for step, row in enumerate(rows):
        own = {name: value for name, value in row.items() if name.startswith("new/") and value}
        assert own == {f"new/{step}": f"{step}"}
    config = json.loads((daemon.outdir / "config.json").read_text())
    assert config == {"first": 1, **{f"at/{step}": step for step in range(6)}}


def test_a_second_run_in_the_same_directory_leaves_the_first_ones_files_alone(daemon, ranks):
    script = """
from tracker_client import setup_tracker
for trial in range(3):
    with setup_tracker("trials", config={"trial": trial}) as tracker:
        tracker.log({"x": float(trial)}, step=0)
"""
    ranks.run(script, 1)
    daemon.stop()
    directories = sorted(file.parent for file in daemon.outdir.rglob("metrics.csv"))
    assert len(directories) == 3
    for directory in directories:
        (row,) = daemon.rows(directory)
        assert json.loads((directory / "config.json").read_text()) == {"trial": float(row["x"])}
