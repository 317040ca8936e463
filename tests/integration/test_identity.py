"""Which run a process belongs to, where a launch has several, or a job many."""

from __future__ import annotations

from collections import Counter

from tests.support.ranks import finish

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
