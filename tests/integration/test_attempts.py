"""A restart and a resume: the run goes on in its next attempt, and nothing of it is late."""

from __future__ import annotations

import os
import subprocess
import sys

from mlflow.tracking import MlflowClient

from tests.support.ranks import Ranks, finish
from tests.support.waiting import wait_until
from tracker_daemon.backends.wandb.transaction_log import LoggedRow, TransactionLog

RESTARTED = """
import os, signal, sys, time
from tracker_client import setup_tracker
restarted = os.environ["TORCHELASTIC_RESTART_COUNT"] == "1"
tracker = setup_tracker("restarted", backends="csv,mlflow", handle_timeout=60)
os.write(1, f"{tracker.run_id} {tracker.attempt}\\n".encode())
for step in range(100, 151) if restarted else range(141):
    tracker.log({"loss": float(step + 1000 * tracker.attempt)}, step=step)
if restarted:
    tracker.finish(wait="delivered", timeout=120)
    sys.exit()
while tracker.status().buffered_points or tracker.status().unacknowledged_points:
    time.sleep(0.01)
if os.environ["RANK"] == "0":
    open(sys.argv[1], "w").close()
    signal.pause()  # torchrun ends it
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
raise ValueError("this rank fails, once")
"""


def test_torchrun_s_restart_from_an_earlier_checkpoint_is_the_next_attempt_of_the_run(
    make_daemon, empty_database, tmp_path
):
    daemon = make_daemon("--backends", "csv", mlflow_store=empty_database)
    script = tmp_path / "train.py"
    script.write_text(RESTARTED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch = subprocess.run(
        [*torchrun, "--max-restarts", "1", str(script), str(tmp_path / "recorded")],
        env={**os.environ, "TRACKER_ENDPOINT_FILE": str(daemon.endpoint_file)},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert launch.returncode == 0, launch.stderr
    (run,) = daemon.status()["runs"]
    assert sorted(launch.stdout.split()) == sorted([run["run_id"]] * 4 + ["1", "1", "2", "2"])
    assert (run["status"], run["attempt"], run["books"]["late"]) == ("FINISHED", 2, 0)
    daemon.stop()
    rows = daemon.rows()
    assert [(row["attempt"], row["step"]) for row in rows] == [
        *(("", str(step)) for step in range(141)),
        *(("2", str(step)) for step in range(100, 151)),
    ]
    assert {float(row["loss/mean"]) - float(row["step"]) for row in rows} == {1000.0, 2000.0}
    points = mlflow_history(daemon, "loss")
    at_120 = sorted((point.timestamp, point.value) for point in points if point.step == 120)
    assert [value for _, value in at_120] == [1120.0, 2120.0]
    assert at_120[0][0] < at_120[1][0]
    assert len(points) == 192


def mlflow_history(daemon, metric):
    client = MlflowClient(f"sqlite:///{daemon.outdir}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments)
    assert run.info.status == "FINISHED"
    return client.get_metric_history(run.info.run_id, metric)


RESUMED = """
import sys
from tracker_client import setup_tracker
for part in range(2):
    with setup_tracker("resumed", handle_timeout=60) as tracker:
        print(tracker.run_id, tracker.attempt, flush=True)
        for _ in range(3):
            tracker.log({"x": 1.0})
"""


def test_a_run_id_resumes_the_script_s_runs_the_next_day_and_automatic_steps_go_on(daemon):
    ranks = Ranks(daemon)
    for day in (1, 2):
        for out in ranks.run(RESUMED, 2, TRACKER_RUN_ID="mine", TRACKER_LAUNCH_ID=f"day {day}"):
            assert out.split() == ["mine", str(day), "mine-2", str(day)]
        daemon.stop()
        if day == 1:
            daemon.start()
    runs = daemon.last_status()["runs"]
    assert {run["run_id"]: (run["status"], run["attempt"]) for run in runs} == dict.fromkeys(
        ("mine", "mine-2"), ("FINISHED", 2)
    )
    for path in daemon.outdir.rglob("metrics.csv"):
        rows = [(row["step"], row["attempt"]) for row in daemon.rows(path.parent)]
        assert rows == [*((str(step), "") for step in range(3)), *((str(step), "2") for step in range(3, 6))]


REQUEUED = """
import os, signal, time
from tracker_client import setup_tracker
again = os.environ["SLURM_RESTART_COUNT"] == "1"
tracker = setup_tracker("requeued", backends="csv,wandb", handle_timeout=60)
print(tracker.run_id, tracker.attempt, flush=True)
for step in range(5, 12) if again else range(10):
    tracker.log({"loss": float(step + 1000 * tracker.attempt)}, step=step)
while tracker.status().buffered_points or tracker.status().unacknowledged_points:
    time.sleep(0.01)
print("recorded", flush=True)
if not again:
    signal.pause()
tracker.finish()
"""
SLURM_STEP = {
    "TRACKER_LAUNCH_ID": "", "RANK": "", "WORLD_SIZE": "", "LOCAL_RANK": "", "WANDB_MODE": "offline",
    "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2",
}  # fmt: skip


def test_a_requeued_job_goes_on_in_its_run_after_a_new_daemon_took_up_the_state(make_daemon):
    daemon = make_daemon("--restart-grace-s", "600")
    ranks, ids = Ranks(daemon), []

    def begin(restarts):
        started = []
        for rank in range(2):
            place = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
            started += ranks.start(REQUEUED, [rank], 2, SLURM_RESTART_COUNT=restarts, **SLURM_STEP, **place)
        for process in started:
            ids.append(process.stdout.readline().split())
            assert process.stdout.readline() == "recorded\n"
        return started

    for process in begin("0"):
        process.kill()
        process.wait()
    daemon.kill()  # the whole allocation is taken away
    daemon.start()
    for process in begin("1"):
        finish(process)
    assert daemon.stop() == 0
    (run,) = daemon.last_status()["runs"]
    assert ids == [[run["run_id"], attempt] for attempt in "1122"]
    assert (run["status"], run["attempt"], run["books"]["late"]) == ("FINISHED", 2, 0)
    both = [*(("", step) for step in range(10)), *(("2", step) for step in range(5, 12))]
    rows = [row for row in daemon.rows() if row["loss/mean"]]
    assert [(row["attempt"], int(row["step"])) for row in rows] == both
    # W&B: the attempts' steps one after the other, and its own step goes on rising.
    logs = (daemon.outdir / "wandb").glob("*run-*/run-*.wandb")
    seen = [row for log in logs for row in TransactionLog(log).read() if isinstance(row, LoggedRow)]
    logged = [row for row in seen if "loss/mean" in row.values]
    assert [row.values["step"] for row in logged] == [step for _, step in both]
    assert [row.step for row in seen] == sorted({row.step for row in seen})


AGENT = """
import os, subprocess, sys
ranks = os.environ | {"TORCHELASTIC_RUN_ID": "elastic", "TORCHELASTIC_RESTART_COUNT": "0"}
for steps in sys.stdin:  # the number of nodes has changed: the agent starts its ranks anew
    rank = subprocess.Popen([sys.executable, "-c", sys.argv[1], steps], env=ranks, stdout=subprocess.PIPE)
    print(rank.stdout.readline().decode(), end="", flush=True)
    sys.stdin.readline()
    rank.kill()
    rank.wait()
"""
ELASTIC = """
import sys, time
from tracker_client import setup_tracker
first, last, ends = sys.argv[1].split()
tracker = setup_tracker("elastic", handle_timeout=60)
for step in range(int(first), int(last)):
    tracker.log({"loss": float(step)}, step=step)
if ends == "well":
    tracker.finish()
while (status := tracker.status()).buffered_points or status.unacknowledged_points:
    time.sleep(0.01)
print(tracker.run_id, tracker.attempt, flush=True)
time.sleep(600)  # the agent ends it
"""


def test_torchrun_s_agent_goes_on_in_the_run_that_its_lost_ranks_failed_and_a_new_agent_does_not(make_daemon):
    daemon = make_daemon("--backends", "csv", "--lost-timeout-s", "1")
    environ = {"TRACKER_ENDPOINT_FILE": str(daemon.endpoint_file), "RANK": "0", "LOCAL_RANK": "0"}
    ids = []
    for launch in (1, 2):
        agent = subprocess.Popen(
            [sys.executable, "-c", AGENT, ELASTIC], env={**os.environ, **environ, "WORLD_SIZE": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        for part, status in (("0 10 badly", "FAILED"), ("5 15 well", "FINISHED")):
            agent.stdin.write(f"{part}\n")
            ids.append(agent.stdout.readline().split())
            agent.stdin.write("the nodes change\n")
            wait_until(
                lambda status=status, launch=launch: (
                    [run["status"] for run in daemon.status()["runs"]]
                    == ["FINISHED"] * (launch - 1) + [status]
                ),
                f"launch {launch} to be {status}",
            )
        agent.communicate()
    (first, one), (again, two), (other, three), (_, four) = ids
    assert first == again != other
    assert (one, two, three, four) == ("1", "2", "1", "2")
    daemon.stop()
    assert [run["books"]["late"] for run in daemon.last_status()["runs"]] == [0, 0]
