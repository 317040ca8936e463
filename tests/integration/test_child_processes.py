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


DATA_LOADER = """
import torch

class Data(torch.utils.data.Dataset):
    def __init__(self, spawned):
        self.tracker = tracker
        self.spawned = spawned

    def __len__(self):
        return 64

    def __getitem__(self, index):
        self.tracker.log({"in a worker": 1.0})
        if self.spawned:
            tracker.log({"in a worker": 2.0})
        return index

tracker = log("parent")  # not under the test for __main__: each worker of 'spawn' does this again
if __name__ == "__main__":
    for method in ("fork", "fork", "spawn"):
        data = Data(method == "spawn")
        loader = torch.utils.data.DataLoader(data, num_workers=2, multiprocessing_context=method)
        assert sum(1 for _ in loader) == 64
    print(tracker.status().calls_elsewhere)
    tracker.finish()
"""


def test_log_in_workers_of_a_data_loader_is_counted_and_warned_about_once(daemon):
    out, err = run_script(daemon, DATA_LOADER)
    assert out == f"{(1 + 1 + 2) * 64 + 2 * STEPS}\n"
    assert err.count("records nothing") == 1
    assert "fork_posix" not in err
    (run,) = runs(daemon).values()
    assert (run["status"], run["books"]["received"]) == ("FINISHED", STEPS)


TORCH_WORKERS = """
import torch.distributed, torch.multiprocessing as workers

def alone(number, ended):  # torch kills the other workers once one has raised
    tracker = log(f"alone {number}")
    if number == 1:
        while not os.path.exists(ended):
            time.sleep(0.01)
        raise ValueError("expected")
    tracker.finish()
    open(ended, "w").close()

def of_a_group(number, file):
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=number, world_size=2)
    log("a group")
    torch.distributed.destroy_process_group()

if __name__ == "__main__":
    tracker = log("parent")
    try:
        workers.start_processes(alone, args=(__file__ + ".ended",), nprocs=2, start_method="fork")
    except workers.ProcessRaisedException as error:
        print(error.error_index)
    workers.start_processes(of_a_group, args=(__file__ + ".group",), nprocs=2, start_method="fork")
    tracker.finish()
"""


def test_workers_of_torch_have_runs_of_their_own_or_are_ranks_of_the_group_that_they_make(daemon):
    out, _ = run_script(daemon, TORCH_WORKERS)
    assert out == "1\n"
    found = runs(daemon)
    ended = {"parent": "FINISHED", "alone 0": "FINISHED", "alone 1": "FAILED", "a group": "FINISHED"}
    assert {name: run["status"] for name, run in found.items()} == ended
    sizes = {name: (run["world_size"], run["books"]["received"]) for name, run in found.items()}
    assert sizes == dict.fromkeys(found, (1, STEPS)) | {"a group": (2, 2 * STEPS)}


JOBLIB = """
from joblib import Parallel, delayed

def trial(number):
    tracker = log(f"trial {number}")
    if number % 2:
        tracker.finish()
    return number

if __name__ == "__main__":
    if sys.argv[1] == "with a tracker":
        log("parent")
    assert Parallel(n_jobs=2)(delayed(trial)(number) for number in range(12)) == list(range(12))
"""


@pytest.mark.parametrize("parent", ["with a tracker", "without"])
def test_each_trial_in_workers_of_joblib_is_a_run(daemon, parent):
    run_script(daemon, JOBLIB, parent)
    found = runs(daemon)
    names = {f"trial {number}" for number in range(12)} | (
        {"parent"} if parent == "with a tracker" else set()
    )
    assert set(found) == names
    assert {(run["status"], run["books"]["received"]) for run in found.values()} == {("FINISHED", STEPS)}
