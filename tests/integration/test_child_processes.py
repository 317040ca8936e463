"""Child processes of a script with a tracker: workers of ``multiprocessing``, and scripts that it starts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.daemon import Daemon
from tests.support.ranks import Ranks
from tests.support.waiting import PATIENCE_S, wait_until

STEPS = 40
TRAIN = f"""
import os, signal, sys, time
from tracker_client import setup_tracker

def log(name, **options):
    tracker = setup_tracker("children", name=name, **options)
    for step in range({STEPS}):
        tracker.log({{"x": float(step)}}, step=step)
    return tracker

def await_recorded(tracker):
    while not tracker.run_id or tracker.status().acknowledged_sequence == 0:
        time.sleep(0.01)
"""


TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0")


def run_script(
    daemon: Daemon, script: str, *arguments: str, launcher: tuple[str, ...] = (), **environ: str
) -> tuple[str, str]:
    """Run ``script`` from a file, which its workers import again; return its stdout and stderr."""
    path = daemon.home / "train.py"
    path.write_text(TRAIN + script)
    variables = Ranks(daemon).environ() | environ
    done = subprocess.run(
        [sys.executable, *launcher, str(path), *arguments],
        env=variables, check=False, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def runs(daemon: Daemon) -> dict[str, dict[str, object]]:
    """Return the runs by their names, once all of them have ended."""

    def ended() -> bool:
        return all(run["status"] != "RUNNING" for run in daemon.status()["runs"])

    wait_until(ended, "all runs to end")
    return {run["name"]: run for run in daemon.status()["runs"]}


WORKERS = """
def worker(how):
    tracker = log(how)
    if how == "raises":
        raise ValueError("expected")
    if how == "exits with 3":
        sys.exit(3)
    if how == "killed":
        await_recorded(tracker)
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "logs in a thread":
        import threading
        def late():
            time.sleep(0.3)
            tracker.log({"late": 1.0}, step=99)
        threading.Thread(target=late).start()

def task(number):
    log(f"task {number}")
    return number

if __name__ == "__main__":
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    tracker = log("parent")
    context = multiprocessing.get_context(sys.argv[1])
    hows = ["ends", "raises", "exits with 3", "killed", "logs in a thread"]
    workers = [context.Process(target=worker, args=(how,)) for how in hows]
    for one in workers:
        one.start()
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(task, range(3))) == [0, 1, 2]
    for one in workers:
        one.join()
    assert [one.exitcode for one in workers] == [0, 1, 3, -9, 0]
    tracker.finish()
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_tracker_made_in_a_worker_records_all_it_logged_and_how_the_worker_ended(make_daemon, method):
    daemon = make_daemon("--lost-timeout-s", "1")
    run_script(daemon, WORKERS, method)
    found = runs(daemon)
    ended = dict.fromkeys(("parent", "ends", "logs in a thread", "task 0", "task 1", "task 2"), "FINISHED")
    failed = dict.fromkeys(("raises", "exits with 3", "killed"), "FAILED")
    assert {name: run["status"] for name, run in found.items()} == ended | failed
    assert "code 1" in found["raises"]["reason"]
    assert "code 3" in found["exits with 3"]["reason"]
    received = {name: run["books"]["received"] for name, run in found.items()}
    late = {"logs in a thread": STEPS + 1}
    assert {**dict.fromkeys(found, STEPS), "killed": received["killed"], **late} == received
    assert {(run["attempt"], run["world_size"]) for run in found.values()} == {(1, 1)}


EVALUATION = """
if __name__ == "__main__":
    tracker = log(sys.argv[1])
    tracker.finish()
    assert tracker.status().state == "finished"
"""
TRAINING = """
import subprocess
before = dict(os.environ)  # has no trace of the tracker

def evaluate(name, **options):
    subprocess.run([sys.executable, os.environ["EVALUATION"], name], check=True, **options)

def forked(name):
    if (pid := os.fork()) == 0:
        log(name).finish()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

if __name__ == "__main__":
    rank = os.environ["RANK"]
    tracker = log("training")
    await_recorded(tracker)
    forked(f"forked by {rank}")
    if rank == "0":
        evaluate("during")
        evaluate("during, with an older environment", env=before)
        tracker.finish()
        evaluate("after")
        open(os.environ["EVALUATION"] + ".done", "w").close()
    while not os.path.exists(os.environ["EVALUATION"] + ".done"):
        time.sleep(0.05)
    if rank == "1":
        for step in range(80):
            tracker.log({"rest": 1.0}, step=100 + step)
        tracker.finish()
        assert tracker.attempt == 1
"""


def test_what_a_rank_of_torchrun_starts_or_forks_has_runs_of_its_own(daemon):
    evaluation = daemon.home / "evaluate.py"
    evaluation.write_text(TRAIN + EVALUATION)
    run_script(daemon, TRAINING, launcher=TORCHRUN, EVALUATION=str(evaluation))
    found = runs(daemon)
    books = {name: run["books"] for name, run in found.items()}
    training = found.pop("training")
    assert (training["attempt"], training["world_size"], training["status"]) == (1, 2, "FINISHED")
    assert books["training"]["received"] == books["training"]["folded"] == 2 * STEPS + 80
    evaluations = ["after", "during", "during, with an older environment", "forked by 0", "forked by 1"]
    assert sorted(found) == evaluations
    for name, run in found.items():
        assert (run["attempt"], run["world_size"], run["status"]) == (1, 1, "FINISHED")
        assert books[name]["received"] == STEPS
