"""Classes of the script as backends: fed in the primary rank's process with what the daemon records."""

from __future__ import annotations

import csv
import json

import pytest

from tests.support.ranks import Ranks, finish
from tests.support.waiting import wait_until

STEPS = 40

CLASS = """
import json, os, sys, threading, time
from tracker_client import TrackerBackend, register_backend, setup_tracker

out = os.environ["KEPT"]

class Kept(TrackerBackend):
    def __init__(self, project_name, config, outdir, rank, colour="none", **kwargs):
        self.file = open(out, "a", buffering=1)
        self.thread = threading.get_ident()
        self.say("made", project=project_name, config=config, rank=rank, colour=colour, more=kwargs)
    def say(self, what, **more):
        assert threading.get_ident() == self.thread
        self.file.write(json.dumps({"what": what, "pid": os.getpid(), **more}) + "\\n")
    def log(self, metrics, step=None, commit=True):
        self.say("log", step=step, metrics=metrics)
    def log_config(self, config):
        self.say("config", config=config)
    def log_table(self, key, columns, data):
        self.say("table", key=key, columns=columns, data=data)
    def finish(self):
        self.say("finish")

register_backend("kept", Kept)
rank = int(os.environ["RANK"])
"""

FOUR_RANKS = (
    CLASS
    + """
with setup_tracker("p", backends="csv,kept", config={"lr": 0.5}, kept={"colour": "blue"}) as tracker:
    for step in range(%d):
        tracker.log({"loss": step + rank, **({"only_primary": step} if rank == 0 else {})}, step=step)
        if step == 20:
            print("halfway", flush=True)
            sys.stdin.readline()
    tracker.log_config({"late": rank})
    tracker.log_table("answers", ["a", "b"], [[1, rank]])
"""
)


@pytest.fixture
def hasty(make_daemon):
    """Ranks of a daemon that waits for missing values as shortly as it may; ended with the test."""
    ranks = Ranks(make_daemon("--backends", "csv", "--partial-after-s", "5"))
    yield ranks
    for process in ranks.processes:
        process.kill()
        process.communicate()


def said(path, what):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["what"] == what]


def merged(path):
    """Each step's values, and how often each came."""
    values, times = {}, {}
    for line in said(path, "log"):
        for name, value in line["metrics"].items():
            key = line["step"], name
            values[key] = value
            times[key] = times.get(key, 0) + 1
    return values, times


def check_all_there(path):
    values, times = merged(path)
    for step in range(STEPS):
        assert values[step, "loss"] == step
        assert values[step, "loss/mean"] == step + 1.5
        assert values[step, "loss/max"] == step + 3
        assert values[step, "only_primary"] == step
    assert set(times.values()) == {1}
    assert len(said(path, "finish")) == 1


def backend(daemon, name, status=None):
    (run,) = (status or daemon.status())["runs"]
    return next(one for one in run["backends"] if one["name"] == name)


def test_the_primary_rank_s_class_is_given_every_record_of_four_ranks_once(daemon, ranks, tmp_path):
    kept = tmp_path / "kept.jsonl"
    started = ranks.start(FOUR_RANKS % STEPS, range(4), 4, KEPT=str(kept))
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        finish(process)
    check_all_there(kept)
    (made,) = said(kept, "made")
    assert made["pid"] == started[0].pid
    assert (made["project"], made["rank"], made["colour"], made["config"]) == ("p", 0, "blue", {"lr": 0.5})
    configs = [line["config"] for line in said(kept, "config")]
    assert {"lr": 0.5} in configs
    assert {"late": 0} in configs
    assert [(line["key"], line["data"]) for line in said(kept, "table")] == [("answers", [[1, 0]])]
    assert said(kept, "finish") == [json.loads(kept.read_text().splitlines()[-1])]
    delivered = backend(daemon, "kept")
    assert (delivered["pending"], delivered["set_aside"]) == (0, 0)
    assert delivered["delivered"] > 0
    assert f"process {started[0].pid}" in delivered["location"]


def test_the_class_has_each_record_once_though_the_daemon_is_killed(daemon, ranks, tmp_path):
    kept = tmp_path / "kept.jsonl"
    started = ranks.start(FOUR_RANKS % STEPS, range(4), 4, KEPT=str(kept))
    for process in started:
        assert process.stdout.readline() == "halfway\n"
    wait_until(lambda: kept.exists() and said(kept, "log"), "the class to be given a record")
    daemon.kill()
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    daemon.start()
    for process in started:
        finish(process)
    check_all_there(kept)
    assert backend(daemon, "kept")["pending"] == 0


FAULTY = (
    CLASS
    + """
class Raising(Kept):
    def log(self, metrics, step=None, commit=True):
        if step == 3:
            raise ValueError("three is too many")
        super().log(metrics, step)

class Hanging(Kept):
    def log(self, metrics, step=None, commit=True):
        time.sleep(3600)

class Unmade(Kept):
    def __init__(self, **kwargs):
        raise OSError("no room for it")

register_backend("raising", Raising)
register_backend("hanging", Hanging)
register_backend("unmade", Unmade)
tracker = setup_tracker("p", backends="csv,raising,hanging,unmade")
for step in range(10):
    tracker.log({"loss": step}, step=step)
tracker.log({"end": 1}, step=10)
sys.stdin.readline()
tracker.finish(timeout=2)
print(tracker.status().backend_failures)
"""
)


def test_a_class_that_raises_or_hangs_delays_no_other_backend(daemon, ranks, tmp_path):
    kept = tmp_path / "kept.jsonl"
    (process,) = ranks.start(FAULTY, [0], 1, KEPT=str(kept))
    csv = daemon.outdir / "metrics.csv"
    wait_until(lambda: csv.exists() and any(row.get("end") for row in daemon.rows()), "the CSV's last row")
    wait_until(lambda: backend(daemon, "raising")["pending"] == 0, "the raising class to have the rest")
    assert backend(daemon, "hanging")["pending"] > 0
    process.stdin.write("go\n")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err.count("three is too many") == 1
    assert err.count("no room for it") == 1
    assert "hanging" in err
    raising = backend(daemon, "raising")
    assert (raising["delivered"], raising["set_aside"]) == (10, 1)
    assert "three is too many" in raising["set_aside_reason"]
    assert int(out) == 1
    unmade = backend(daemon, "unmade")
    assert (unmade["delivered"], unmade["pending"]) == (0, 0)
    assert "no room for it" in unmade["set_aside_reason"]


LATE = (
    CLASS
    + """
tracker = setup_tracker("p", backends="csv,kept")
tracker.log({"loss": 1.0}, step=0)
print("logged", flush=True)
sys.stdin.readline()
tracker.finish()
print("over", flush=True)
"""
)


def test_the_primary_rank_s_finish_does_not_wait_for_ranks_that_go_on(hasty, tmp_path):
    daemon = hasty.daemon
    kept = tmp_path / "kept.jsonl"
    first, second = hasty.start(LATE, range(2), 2, KEPT=str(kept))
    for process in (first, second):
        assert process.stdout.readline() == "logged\n"
    out, err = first.communicate("go\n", timeout=60)
    assert out == "over\n", err
    assert merged(kept)[0][0, "loss/mean"] == 1.0
    assert len(said(kept, "finish")) == 1
    finish(second)
    wait_until(lambda: backend(daemon, "kept")["pending"] == 0, "nothing to wait for the class any more")


@pytest.mark.long
def test_a_class_waits_with_its_reason_while_its_process_is_gone_and_a_successor_goes_on(hasty, tmp_path):
    daemon, ranks = hasty.daemon, hasty
    kept = tmp_path / "kept.jsonl"
    script = (
        CLASS
        + """
tracker = setup_tracker("p", backends="csv,kept", world_size=2, run_id="goes-on")
tracker.log({f"loss{rank}": 1.0}, step=0)
print("logged", flush=True)
sys.stdin.readline()
tracker.log({f"loss{rank}": 2.0}, step=1)
tracker.finish()
"""
    )
    first, second = ranks.start(script, range(2), 2, KEPT=str(kept))
    for process in (first, second):
        assert process.stdout.readline() == "logged\n"
    wait_until(lambda: kept.exists() and len(merged(kept)[0]) == 2, "both ranks' first values")
    first.kill()
    first.wait()
    second.stdin.write("go\n")
    second.stdin.flush()
    finish(second)
    wait_until(lambda: backend(daemon, "kept")["reason"], "the backend to say that it waits")
    waiting = backend(daemon, "kept")
    assert "is not connected" in waiting["reason"]
    assert waiting["pending"] == 1
    (successor,) = ranks.start(script, [0], 2, KEPT=str(kept))
    successor.stdin.write("go\n")
    successor.stdin.flush()
    finish(successor)
    values, times = merged(kept)
    assert values == {(0, "loss0"): 1.0, (0, "loss1"): 1.0, (1, "loss1"): 2.0, (1, "loss0"): 2.0}
    assert times == {(0, "loss0"): 2, (0, "loss1"): 1, (1, "loss1"): 1, (1, "loss0"): 1}
    assert backend(daemon, "kept")["set_aside"] == 0
    assert {line["pid"] for line in said(kept, "made")} == {first.pid, successor.pid}


def test_a_name_that_nobody_has_is_told_with_what_would_help(daemon, ranks):
    script = """
from tracker_client import setup_tracker
with setup_tracker("p", backends="csv,nosuch") as tracker:
    tracker.log({"loss": 1.0})
"""
    (process,) = ranks.start(script, [0], 1)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "there is no backend 'nosuch'" in err
    assert "register_backend('nosuch'" in err
    assert "csv, memory, mlflow, wandb" in err


SUBCLASS = """
import sys
from tracker_client import CSVBackend, register_backend, setup_tracker

class Doubling(CSVBackend):
    def __init__(self, outdir, rank=0):
        super().__init__(outdir, rank)
    def log(self, metrics, step=None, commit=True):
        super().log({**metrics, "twice": 2 * metrics["loss"]}, step=step, commit=commit)

register_backend("csv", Doubling)
with setup_tracker("p", backends="csv", outdir=sys.argv[1], config={"lr": 0.5}) as tracker:
    for step in range(3):
        tracker.log({"loss": step}, step=step)
"""


def test_a_subclass_registered_as_csv_writes_the_run_s_csv_files_alone(daemon, tmp_path):
    ranks = Ranks(daemon)
    for process in ranks.start(SUBCLASS, range(2), 2, arguments=(str(tmp_path / "out"),)):
        finish(process)
    with (tmp_path / "out" / "metrics.csv").open(newline="") as file:
        written = [(row["step"], float(row["loss/max"]), float(row["twice"])) for row in csv.DictReader(file)]
    assert written == [(str(step), float(step), 2.0 * step) for step in range(3)]
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"lr": 0.5}
    assert not list(daemon.outdir.rglob("metrics.csv"))
