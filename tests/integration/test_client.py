"""What a training script relies on, in real processes against a real daemon."""

from __future__ import annotations

import json
import os
import socket

import pytest

from tests.support.ranks import Ranks, finish
from tests.support.waiting import wait_until


def run_of(daemon):
    (run,) = daemon.status()["runs"]
    return run


def test_steps_commits_and_snapshots_are_recorded_as_they_were_meant(daemon, ranks):
    ranks.run(
        """
from tracker_client import setup_tracker
tracker = setup_tracker("steps")
metrics = {"loss": 1.0}
tracker.log(metrics)                      # step 0, counted by the client
metrics["loss"] = 99.0                    # later changes are not recorded
tracker.log({"loss": 2.0}, step=10)
tracker.log({"loss": 3.0})                # 11
tracker.log({"part": 1.0}, step=20, commit=False)
tracker.log({"loss": 4.0}, step=20)       # completes the row
tracker.log({"last": 5.0}, step=30, commit=False)
tracker.finish()                          # closes it
tracker.finish()                          # twice is once
tracker.log({"loss": 6.0})                # too late: counted, not recorded
assert tracker.status().calls_after_finish == 1
""",
        1,
    )
    daemon.stop()
    rows = [{name: value for name, value in row.items() if value} for row in daemon.rows()]
    assert [{name: float(value) for name, value in row.items()} for row in rows] == [
        {"step": 0, "loss": 1},
        {"step": 10, "loss": 2},
        {"step": 11, "loss": 3},
        {"step": 20, "part": 1, "loss": 4},
        {"step": 30, "last": 5},
    ]


def test_numpy_and_torch_scalars_are_recorded_with_the_value_at_the_call(daemon, ranks):
    pytest.importorskip("torch")
    ranks.run(
        """
import numpy, torch
from tracker_client import setup_tracker
with setup_tracker("scalars") as tracker:
    array, tensor = numpy.array(1.5), torch.tensor(2.5, requires_grad=True)
    tracker.log({"a": numpy.float32(0.5), "b": array, "c": tensor})
    tracker.log({"d": torch.tensor(3), "e": True, "f": numpy.int64(7)}, step=0)
    array[...] = 0
    with torch.no_grad():
        tensor.zero_()
""",
        1,
    )
    daemon.stop()
    cells = {name: value for row in daemon.rows() for name, value in row.items() if value}
    assert cells == {"step": "0", "a": "0.5", "b": "1.5", "c": "2.5", "d": "3", "e": "True", "f": "7"}


def test_bad_values_are_counted_and_warned_about_once_a_key_and_never_raise(daemon, ranks):
    (process,) = ranks.start(
        """
from tracker_client import setup_tracker
with setup_tracker("bad") as tracker:
    for _ in range(3):
        tracker.log({"good": 1.0, "odd": object(), "none": None, 5: 1.0})
    tracker.log("not a dictionary")
    tracker.log({"good": 2.0}, step="seven")
print(tracker.status().refused_values)
""",
        [0],
        1,
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert int(out) >= 9
    # Each once when it first occurs, and once with the count at the end.
    assert err.count("'odd'") == 2
    assert err.count("'none'") == 2
    assert err.count("'seven'") == 1
    daemon.stop()
    assert [(row["step"], row["good"]) for row in daemon.rows()] == [
        ("0", "1.0"), ("1", "1.0"), ("2", "1.0"), ("3", "2.0")
    ]  # fmt: skip


def test_an_exception_in_the_block_or_at_the_top_ends_the_run_as_failed(make_daemon):
    for body in (
        'with setup_tracker("raised") as tracker:\n    tracker.log({"x": 1.0})\n    raise ValueError("boom")',
        'tracker = setup_tracker("raised")\ntracker.log({"x": 1.0})\nraise ValueError("boom")',
    ):
        daemon = make_daemon()
        script = f"from tracker_client import setup_tracker\n{body}"
        (process,) = Ranks(daemon).start(script, [0], 1)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "boom" in err
        run = run_of(daemon)
        reason = f"rank 0 on {socket.gethostname()} (last step 0) exited with code 1"
        assert (run["status"], run["reason"]) == ("FAILED", reason)
        assert run["books"]["received"] == 1


def test_a_script_that_forgets_to_finish_is_finished_at_its_exit(daemon, ranks):
    ranks.run('from tracker_client import setup_tracker\nsetup_tracker("forgot").log({"x": 1.0})', 1)
    wait_until(lambda: run_of(daemon)["status"] == "FINISHED", "the exit status of the script")


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_all_rows_are_in_the_file_when_finish_returns(make_daemon, world_size):
    """On the primary rank, if the other ranks have logged the same steps."""
    daemon = make_daemon()
    script = """
import csv, os, pathlib, sys, time
from tracker_client import setup_tracker
tracker = setup_tracker("rows", config={"lr": 0.1})
for step in range(50):
    tracker.log({"loss": float(step)}, step=step)
tracker.log_table("t", ["a"], [[1]])
tracker.finish()
if os.environ["RANK"] == "0":
    (path,) = pathlib.Path(sys.argv[1]).rglob("metrics.csv")
    print([int(row["step"]) for row in csv.DictReader(path.open())] == list(range(50)))
    print(sorted(file.name for file in path.parent.iterdir() if file.name in ("config.json", "t.csv")))
"""
    ranks = Ranks(daemon)
    first, *_ = [
        finish(process)
        for process in ranks.start(script, range(world_size), world_size, (str(daemon.outdir),))
    ]
    assert first == "True\n['config.json', 't.csv']\n"


def test_a_forked_child_neither_logs_nor_disturbs_its_parent(daemon, ranks):
    ranks.run(
        """
import os
from tracker_client import setup_tracker
tracker = setup_tracker("forks")
for step in range(4):
    tracker.log({"x": float(step)}, step=step)
    child = os.fork()
    if child == 0:
        tracker.log({"x": -1.0}, step=step)
        tracker.finish()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
tracker.finish()
""",
        1,
    )
    daemon.stop()
    assert [float(row["x"]) for row in daemon.rows()] == [0, 1, 2, 3]


def test_proxies_of_the_environment_are_ignored(daemon, ranks):
    dead = "http://127.0.0.1:9"
    ranks.run(
        'from tracker_client import setup_tracker\nwith setup_tracker("proxy") as t: t.log({"x": 1.0})',
        1,
        http_proxy=dead, https_proxy=dead, HTTP_PROXY=dead, HTTPS_PROXY=dead, all_proxy=dead,
    )  # fmt: skip
    assert run_of(daemon)["books"]["received"] == 1


def test_what_is_logged_before_the_daemon_is_there_is_recorded(make_daemon):
    daemon = make_daemon("--backends", "csv")
    daemon.stop()
    (process,) = Ranks(daemon).start(
        """
from tracker_client import setup_tracker
tracker = setup_tracker("early")
for step in range(100):
    tracker.log({"x": float(step)}, step=step)
print("logged", flush=True)
tracker.finish(timeout=50)
""",
        [0],
        1,
    )
    assert process.stdout.readline() == "logged\n"
    daemon.start()
    finish(process)
    daemon.stop()
    assert [float(row["x"]) for row in daemon.rows()] == list(range(100))


def test_finish_that_waits_for_delivery_returns_when_the_files_have_it(daemon, ranks):
    metrics = daemon.outdir / "metrics.csv"
    (out,) = ranks.run(
        f"""
from tracker_client import setup_tracker
tracker = setup_tracker("delivered", config={{"lr": 1}})
for step in range(500):
    tracker.log({{"x": float(step)}}, step=step)
tracker.finish(wait="delivered")
print(len(open({str(metrics)!r}).readlines()))
""",
        1,
    )
    assert int(out) == 501


def test_no_backends_makes_a_tracker_that_does_nothing(daemon, ranks):
    ranks.run(
        """
from tracker_client import NullTracker, setup_tracker
tracker = setup_tracker("nothing", backends="none")
assert isinstance(tracker, NullTracker)
tracker.log({"x": 1.0}); tracker.log_config({}); tracker.finish()
assert tracker.get_backend("wandb") is None
""",
        1,
    )
    assert daemon.status()["runs"] == []


def test_configurations_of_the_primary_rank_are_merged_into_config_json(daemon, ranks):
    ranks.run(
        """
import os
from tracker_client import setup_tracker
with setup_tracker("config", config={"lr": 0.1, "net": {"width": 3}}) as tracker:
    tracker.log_config({"path": os.path, "rank": int(os.environ["RANK"])})
""",
        2,
    )
    daemon.stop()
    config = json.loads((daemon.outdir / "config.json").read_text())
    assert config == {"lr": 0.1, "net": {"width": 3}, "path": str(os.path), "rank": 0}
