"""Which run a process belongs to, where a launch has several, or a job many."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.support.ranks import Ranks, finish
from tests.support.waiting import wait_until

TRIAL = """
import sys
from tracker_client import setup_tracker
tracker = setup_tracker("sweep", handle_timeout=60)
tracker.log({"x": 1.0}, step=0)
print(tracker.run_id, tracker.attempt, flush=True)
sys.stdin.readline()
tracker.finish()
"""
BY_ITSELF = {"RANK": "", "WORLD_SIZE": "", "LOCAL_RANK": "", "TRACKER_LAUNCH_ID": "the job of all"}


def test_each_trial_of_a_sweep_is_a_run_at_once_or_in_a_row_also_after_one_that_was_killed(daemon, ranks):
    def begin():
        (trial,) = ranks.start(TRIAL, [0], 1, **BY_ITSELF)
        run_id, attempt = trial.stdout.readline().split()
        assert attempt == "1"
        return trial, run_id

    killed, *rest = [begin() for _ in range(3)]
    killed[0].kill()
    killed[0].wait()
    rest.append(begin())
    assert len({run_id for _, run_id in (killed, *rest)}) == 4
    for trial, _ in rest:
        trial.stdin.write("\n")
        finish(trial)
    rest.append(begin())
    assert len({run_id for _, run_id in (killed, *rest)}) == 5
    states = {run["run_id"]: run["status"] for run in daemon.status()["runs"]}
    assert Counter(states[run_id] for _, run_id in rest) == {"FINISHED": 3, "RUNNING": 1}


SEVERAL = """
from tracker_client import setup_tracker
ids = []
for trial in range(2):
    with setup_tracker("in a row", handle_timeout=60) as tracker:
        tracker.log({"x": 1.0}, step=0)
        ids.append(tracker.run_id)
both = [setup_tracker("at once", name=name, handle_timeout=60) for name in ("a", "b")]
for tracker in both:
    tracker.log({"x": 1.0}, step=0)
    ids.append(tracker.run_id)
for tracker in both:
    tracker.finish()
print(*ids)
"""


def test_the_ranks_of_a_script_with_several_runs_meet_in_each_of_them(daemon, ranks):
    first, second = (out.split() for out in ranks.run(SEVERAL, 2))
    assert first == second
    assert len(set(first)) == 4
    for run in daemon.status()["runs"]:
        assert (run["status"], run["attempt"], run["world_size"]) == ("FINISHED", 1, 2)
        assert run["books"]["folded"] == 2


NAMED_BY_TIME = """
import os, time
from tracker_client import setup_tracker
rank = int(os.environ["RANK"])
time.sleep(0.2 * (3 - rank))  # the primary rank is the last one
tracker = setup_tracker("named", name=f"run-{time.time()}", config={"lr": rank}, tags=[f"rank {rank}"],
                        outdir=f"out-{rank}", handle_timeout=60)
print(tracker.run_id)
open(f"joined-{rank}", "w").close()
while not all(os.path.exists(f"joined-{other}") for other in range(4)):
    time.sleep(0.01)
for step in range(5):
    tracker.log({"loss": float(rank)}, step=step)
tracker.finish()
"""


def test_ranks_that_give_names_of_their_own_meet_in_the_primary_rank_s_run_with_one_warning(
    daemon, ranks, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    processes = ranks.start(NAMED_BY_TIME, range(4), 4)
    ended = [process.communicate(timeout=60) for process in processes]
    (run,) = daemon.status()["runs"]
    assert {out for out, _ in ended} == {f"{run['run_id']}\n"}
    assert (run["status"], run["attempt"], run["world_size"]) == ("FINISHED", 1, 4)
    assert run["outdir"] == str(tmp_path / "out-0")
    assert [row["loss/mean"] for row in daemon.rows(tmp_path / "out-0")] == ["1.5"] * 5
    assert json.loads((tmp_path / "out-0/config.json").read_text())["lr"] == 0
    about_names = [text for text in run["events"] if "gives the name" in str(text)]
    assert len(about_names) == 1
    assert any("lr is 0 on rank 0" in str(notice) for notice in run["events"])
    assert sum("gives the name" in err for _, err in ended) == 1


IN_TWO_ORDERS = """
import os
from tracker_client import setup_tracker
order = ["train", "eval"] if os.environ["RANK"] == "0" else ["eval", "train"]
made = {}
for key in order:
    made[key] = setup_tracker("orders", handle_timeout=60, **{HOW})
for key in order:
    made[key].log({key: 1.0 + int(os.environ["RANK"])}, step=0)
print(made["train"].run_id, made["eval"].run_id)
for tracker in made.values():
    tracker.finish()
"""


@pytest.mark.parametrize(
    "how", ['{"name": key}', '{"run_key": key, "name": f"{key}-{os.getpid()}"}'], ids=["name", "run_key"]
)
def test_trackers_that_ranks_make_in_different_orders_meet_by_name_or_by_run_key(daemon, ranks, how):
    first, second = (out.split() for out in ranks.run(IN_TWO_ORDERS.replace("{HOW}", how), 2))
    assert first == second
    assert len(set(first)) == 2
    for run in daemon.status()["runs"]:
        assert (run["status"], run["attempt"], run["books"]["folded"]) == ("FINISHED", 1, 2)


LATE = """
import os, sys, time
from tracker_client import setup_tracker
if os.environ["RANK"] == "1":
    print("started", flush=True)
    sys.stdin.readline()
tracker = setup_tracker("late", handle_timeout=60)
for step in range(3):
    tracker.log({"own": 7.0, "loss": 1.0}, step=step)
tracker.finish()
print(tracker.run_id, tracker.attempt)
"""


def test_a_rank_that_first_connects_after_the_run_s_end_delivers_its_values_and_the_state_stays(make_daemon):
    daemon = make_daemon("--backends", "csv", "--record-ranks", "all")
    ranks = Ranks(daemon)
    (late,) = ranks.start(LATE, [1], 2)
    assert late.stdout.readline() == "started\n"
    run_id, _ = finish(*ranks.start(LATE, [0], 1)).split()  # it does not know of the other
    wait_until(lambda: daemon.status()["runs"][0]["status"] == "FINISHED", "the end without the late rank")
    late.stdin.write("\n")
    assert finish(late).split() == [run_id, "1"]
    # The next launch under the same key is a run of its own.
    assert finish(*ranks.start(LATE, [0], 1)).split() != [run_id, "1"]
    daemon.stop()
    run = next(run for run in daemon.last_status()["runs"] if run["run_id"] == run_id)
    assert (run["status"], run["attempt"], run["books"]["received"]) == ("FINISHED", 1, 12)
    # The next run in this directory has moved the files.
    [moved] = (daemon.outdir / "runs").iterdir()
    values = [(row["step"], row.get("own/rank1")) for row in daemon.rows(moved)]
    assert [step for step, value in values if value] == ["0", "1", "2"]
