"""How runs end with their job: never RUNNING for ever, never FINISHED after a crash, and by name."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from wandb.proto.wandb_internal_pb2 import Record

from tests.support.ranks import Ranks
from tests.support.waiting import wait_until
from tracker_daemon.backends.wandb.transaction_log import TransactionLog
from tracker_daemon.endpoints.control import DaemonClient
from tracker_daemon.endpoints.endpoint_file import EndpointInfo

VANISHED = "ended without finish() (killed, or by os._exit(): call tracker.finish() before it)"
ENDPOINT = "out/.tracker/endpoint.json"

TRAIN = """
import os, signal, sys, time
from tracker_client import setup_tracker

def leave(number, frame):
    time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 0)  # writes its checkpoint
    tracker.log({"last": 1.0}, step=8)
    sys.exit(128 + number)

tracker = setup_tracker("ended", handle_timeout=60)
if os.environ.get("HANDLES") == os.environ["RANK"]:
    signal.signal(signal.SIGTERM, leave)
tracker.log({"loss": 1.0}, step=7)
while tracker.status().buffered_points or tracker.status().unacknowledged_points:
    time.sleep(0.01)
print("recorded", flush=True)
while True:
    signal.pause()
"""


def mlflow_run(outdir):
    client = MlflowClient(f"sqlite:///{outdir}/mlflow.db")
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return run.info.status, run.data.tags["tracker.end_reason"]


def test_a_job_that_sigterm_ends_leaves_no_run_running_and_names_ranks_and_hosts(make_daemon, empty_database):
    daemon = make_daemon("--backends", "csv,mlflow", mlflow_store=empty_database)
    started = Ranks(daemon).start(TRAIN, [0, 1], 2)
    for process in started:
        assert process.stdout.readline() == "recorded\n"
    for process in (*started, daemon.process):  # as a batch system does: everyone at once
        process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(60) == 0
    assert [process.wait(60) for process in started] == [-signal.SIGTERM] * 2
    host = socket.gethostname()
    reason = f"ranks 0 on {host} (last step 7), 1 on {host} (last step 7) lost contact"
    (run,) = daemon.last_status()["runs"]
    assert (run["status"], run["reason"]) == ("FAILED", reason)
    assert mlflow_run(daemon.outdir) == ("FAILED", reason)


def test_ranks_that_save_a_checkpoint_within_the_grace_of_their_job_are_waited_for(
    make_daemon, empty_database
):
    daemon = make_daemon("--backends", "csv,mlflow", "--grace-s", "60", mlflow_store=empty_database)
    ranks = Ranks(daemon)
    started = ranks.start(TRAIN.replace("else 0)", "else 4)"), [0], 2, HANDLES="0")
    started += ranks.start(TRAIN, [1], 2)  # has no handler: ends at once
    for process in started:
        assert process.stdout.readline() == "recorded\n"
    for process in (*started, daemon.process):
        process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(120) == 0
    assert [process.wait(60) for process in started] == [128 + signal.SIGTERM, -signal.SIGTERM]
    host = socket.gethostname()
    reason = f"rank 0 on {host} (last step 8) ended by SIGTERM; rank 1 on {host} (last step 7) {VANISHED}"
    (run,) = daemon.last_status()["runs"]
    assert (run["status"], run["reason"]) == ("FAILED", reason)
    assert mlflow_run(daemon.outdir) == ("FAILED", reason)


def wandb_end(outdir):
    """The exit code of the offline run, and what its summary says of its end."""
    (path,) = (outdir / "wandb").glob("*run-*/run-*.wandb")
    records = [Record.FromString(payload) for payload in TransactionLog(path).payloads()]
    (code,) = [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"]
    (reason,) = [
        json.loads(item.value_json)
        for record in records
        for item in record.summary.update
        if (list(item.nested_key) or [item.key])[-1] == "tracker/end_reason"
    ]
    return code, reason


@pytest.mark.parametrize("how", ["an exception", "SIGKILL", "Ctrl-C"])
def test_mlflow_and_wandb_have_the_run_s_end_with_the_rank_and_host_named(make_daemon, empty_database, how):
    daemon = make_daemon("--backends", "mlflow,wandb", "--lost-timeout-s", "1", mlflow_store=empty_database)
    script = TRAIN.replace("signal.pause()", "raise ValueError") if how == "an exception" else TRAIN
    (process,) = Ranks(daemon).start(script, [0], 1, WANDB_MODE="offline")
    assert process.stdout.readline() == "recorded\n"
    if how != "an exception":
        process.send_signal(signal.SIGKILL if how == "SIGKILL" else signal.SIGINT)
    process.wait(60)
    wait_until(lambda: daemon.status()["runs"][0]["status"] == "FAILED", "the run to end")
    assert daemon.stop() == 0
    what = {"an exception": "exited with code 1", "SIGKILL": "lost contact", "Ctrl-C": "ended by SIGINT"}[how]
    reason = f"rank 0 on {socket.gethostname()} (last step 7) {what}"
    assert mlflow_run(daemon.outdir) == ("KILLED" if how == "Ctrl-C" else "FAILED", reason)
    assert wandb_end(daemon.outdir) == (1, reason)


def test_a_rank_that_takes_its_time_over_sigterm_is_waited_for_under_run(tmp_path, empty_database):
    script, outdir = tmp_path / "train.py", tmp_path / "out"
    outdir.mkdir()
    shutil.copy(empty_database, outdir / "mlflow.db")
    script.write_text(TRAIN)
    command = [
        sys.executable,
        "-m",
        "tracker_daemon",
        "run",
        "--outdir",
        str(outdir),
        "--backends",
        "csv,mlflow",
    ]
    environ = {**os.environ, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "HANDLES": "0"}
    wrapper = subprocess.Popen(
        [*command, "--", sys.executable, str(script), "4"],
        env=environ, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert wrapper.stdout.readline() == "recorded\n"
    wrapper.send_signal(signal.SIGTERM)
    assert wrapper.wait(120) == 128 + signal.SIGTERM
    reason = f"rank 0 on {socket.gethostname()} (last step 8) ended by SIGTERM"
    assert mlflow_run(outdir) == ("FAILED", reason)


ENDS = {
    "the last line": ("pass", "FINISHED", ""),
    "a caught sys.exit": ("try: sys.exit(1)\nexcept SystemExit: pass", "FINISHED", ""),
    "exit": ("exit(1)", "FAILED", "exited with code 1"),
    "quit": ("quit(1)", "FAILED", "exited with code 1"),
    "SystemExit": ("raise SystemExit(3)", "FAILED", "exited with code 3"),
    "os._exit(3)": ("settle(); os._exit(3)", "FAILED", VANISHED),
    "os._exit(0)": ("settle(); os._exit(0)", "FAILED", VANISHED),
    "os._exit after finish": ("tracker.finish(); os._exit(3)", "FINISHED", ""),
    "exit after finish": ("tracker.finish(); exit(3)", "FINISHED", ""),
}
END = """
import os, sys, time
from tracker_client import setup_tracker
def settle():
    while (status := tracker.status()).buffered_points or status.unacknowledged_points or not status.run_id:
        time.sleep(0.01)
tracker = setup_tracker("ends", name=sys.argv[1])
tracker.log({"loss": 1.0}, step=7)
exec(sys.argv[2])
"""


def test_each_way_in_which_a_script_ends_is_told_from_the_others(make_daemon):
    daemon = make_daemon()
    environ = Ranks(daemon).environ()
    started = [
        subprocess.Popen([sys.executable, "-c", END, how, ending], env=environ, stderr=subprocess.DEVNULL)
        for how, (ending, _, _) in ENDS.items()
    ]
    for process in started:
        process.wait(120)

    def ends():
        return {run["name"]: (run["status"], run["reason"]) for run in daemon.status()["runs"]}

    who = f"rank 0 on {socket.gethostname()} (last step 7)"
    expected = {how: (status, f"{who} {what}" if what else "") for how, (_, status, what) in ENDS.items()}
    wait_until(lambda: "RUNNING" not in dict(ends().values()), "every run to end")
    assert {how: (status, reason or "") for how, (status, reason) in ends().items()} == expected


def run_under(tmp_path, *command):
    """The end of the run of ``command`` under ``run``: (exit status of ``run``, status, reason)."""
    argv = [
        sys.executable,
        "-m",
        "tracker_daemon",
        "run",
        "--outdir",
        str(tmp_path),
        "--backends",
        "csv",
        "--",
    ]
    environ = {name: text for name, text in os.environ.items() if not name.startswith("TRACKER_")}
    done = subprocess.run([*argv, *command], env=environ, check=False, timeout=120, capture_output=True)
    (run,) = json.loads((tmp_path / ".tracker/last-status.json").read_text())["runs"]
    return done.returncode, run["status"], run["reason"] or ""


def shell(ending, then):
    """A shell that runs a script which ends so, and then something more."""
    return "bash", "-c", f'"$0" -c "$1" named "$2" {then}', sys.executable, END, ending


WHO = f"rank 0 on {socket.gethostname()} (last step 7)"


@pytest.mark.parametrize(
    ("command", "end"),
    [
        (shell("settle(); os.kill(os.getpid(), 9)", "| cat"), (0, "FAILED", f"{WHO} {VANISHED}")),
        (shell("settle(); os._exit(0)", "; true"), (0, "FAILED", f"{WHO} {VANISHED}")),
        (shell("pass", "; exit 3"), (3, "FAILED", "the command exited with code 3")),
        (shell("tracker.finish()", "; exit 3"), (3, "FINISHED", "")),
        (shell("exit(4)", "; true"), (0, "FAILED", f"{WHO} exited with code 4")),
        ((sys.executable, "-c", END, "named", "settle(); os._exit(0)"), (0, "FINISHED", "")),
        (
            (sys.executable, "-c", END, "named", "settle(); os._exit(3)"),
            (3, "FAILED", f"{WHO} exited with code 3"),
        ),
    ],
    ids=[
        "pipe",
        "shell",
        "failed shell",
        "finished in a failed shell",
        "hidden code",
        "command",
        "failed command",
    ],
)
def test_a_command_s_status_says_of_a_rank_only_what_it_can_know(tmp_path, command, end):
    assert run_under(tmp_path, *command) == end


OVERSTAY = """
import os, signal, sys, time
from tracker_client import setup_tracker

def leave(number, frame):
    if os.environ["RANK"] == "1":
        return  # hangs, in a collective say
    time.sleep(float(os.environ["CHECKPOINT_S"]))
    tracker.log({"last": 1.0}, step=8)
    sys.exit(128 + number)

tracker = setup_tracker("grace", handle_timeout=60)
signal.signal(signal.SIGTERM, leave)
tracker.log({"loss": 1.0}, step=7)
while tracker.status().buffered_points or tracker.status().unacknowledged_points:
    time.sleep(0.01)
open(os.environ["RECORDED"] + os.environ["RANK"], "w").close()
while True:
    signal.pause()
"""


def family(pid):
    """A process and all that descend from it, whatever their sessions."""
    children = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, ())
    return found


def end_job(pids, grace_s):
    """What a batch system does: SIGTERM to every process of the job, and SIGKILL when its time is over."""
    by = time.monotonic() + grace_s
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(max(0.0, by - time.monotonic()))  # the batch system's clock, which nothing can hold


def delivered(endpoint):
    """How many records each backend has."""
    (run,) = json.loads(DaemonClient(endpoint).status())["runs"]
    return [backend["delivered"] for backend in run["backends"]]


def job_of(how, grace_s, tmp_path):
    """Two ranks under torchrun and their daemon: the process that all of them descend from."""
    flags = ["--outdir", str(tmp_path / "out"), "--backends", "csv,mlflow,wandb", "--grace-s", str(grace_s)]
    environ = {
        **os.environ, "WANDB_MODE": "offline", "RECORDED": str(tmp_path / "recorded"),
        "CHECKPOINT_S": str(0.4 * grace_s), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    script = tmp_path / "train.py"
    script.write_text(OVERSTAY)
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)
    ]  # fmt: skip
    command = [sys.executable, "-m", "tracker_daemon", "run", *flags, "--", *torchrun]
    if how == "serve":
        environ["TRACKER_ENDPOINT_FILE"] = str(tmp_path / ENDPOINT)
        environ["TRACKER_STATE_DIR"] = str(tmp_path / "out/.tracker")
        daemon = f"{sys.executable} -m tracker_daemon"
        serve, wait = f"{daemon} serve {' '.join(flags)}", f"{daemon} wait --ready"
        command = ["bash", "-c", f"trap : TERM; {serve} & {wait}; {' '.join(torchrun)} & wait; wait"]
    with (tmp_path / "output").open("wb") as output:
        return subprocess.Popen(command, env=environ, stdout=output, stderr=output, cwd=tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("grace_s", [10, 30])
@pytest.mark.parametrize("how", ["serve", "run"])
def test_a_job_that_is_killed_when_its_grace_is_over_has_ended_by_then_in_its_journal(
    tmp_path, empty_database, how, grace_s
):
    (tmp_path / "out").mkdir()
    shutil.copy(empty_database, tmp_path / "out" / "mlflow.db")
    job = job_of(how, grace_s, tmp_path)
    wait_until(lambda: len(list(tmp_path.glob("recorded?"))) == 2, "both ranks to be recorded")
    endpoint = EndpointInfo.read(tmp_path / ENDPOINT)
    wait_until(lambda: delivered(endpoint) == [1, 1, 1], "all backends to have the first row")
    end_job(family(job.pid), grace_s)
    job.wait(60)
    # How much the backends have by then is a matter of the machine's speed; nobody has to wait for the rest.
    state = str(tmp_path / "out/.tracker")
    synced = subprocess.run([sys.executable, "-m", "tracker_daemon", "sync", state], check=False, timeout=300)
    assert synced.returncode == 0
    (run,) = json.loads((tmp_path / "out/.tracker/last-status.json").read_text())["runs"]
    host = socket.gethostname()
    reason = (
        f"rank 1 on {host} (last step 7) ended by SIGKILL; rank 0 on {host} (last step 8) ended by SIGTERM"
    )
    assert (run["status"], run["reason"]) == ("FAILED", reason)
    assert mlflow_run(tmp_path / "out") == ("FAILED", reason)
    assert wandb_end(tmp_path / "out") == (1, reason)


def test_a_killed_job_fails_its_run_and_a_restart_within_the_grace_is_its_next_attempt(make_daemon):
    flags = ("--backends", "csv", "--lost-timeout-s", "1", "--restart-grace-s", "600")
    daemon = make_daemon(*flags)
    ranks = Ranks(daemon)

    def state():
        (run,) = daemon.status()["runs"]
        return run["status"], run["attempt"], [rank["state"] for rank in run["ranks"]]

    def begun():
        (process,) = ranks.start(TRAIN, [0], 2)
        assert process.stdout.readline() == "recorded\n"
        return process

    first = begun()
    assert state() == ("RUNNING", 1, ["live", "expected"])
    first.kill()
    wait_until(lambda: state()[2] == ["lost", "expected"], "the killed rank to be lost")
    begun().kill()
    wait_until(lambda: state() == ("RUNNING", 2, ["lost", "expected"]), "the second to be lost")
    daemon.kill()
    daemon.flags = ("--backends", "csv", "--lost-timeout-s", "1", "--start-timeout-s", "1")
    daemon.start()  # without a grace, and with no patience for the rank that never connected
    wait_until(lambda: state() == ("FAILED", 2, ["lost", "absent"]), "the run to be over")
    (run,) = daemon.status()["runs"]
    assert run["reason"] == (
        f"rank 0 on {socket.gethostname()} (last step 7) lost contact; rank 1 never connected"
    )
