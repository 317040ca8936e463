"""W&B the whole way: from four ranks through a real daemon to a file, or to a server."""

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.ranks import Ranks, finish
from tests.support.servers import wandb_stub
from tests.support.waiting import wait_until

pytest.importorskip("wandb")

from tracker_daemon.backends.wandb.transaction_log import (
    LoggedConfig,
    LoggedMetric,
    LoggedRow,
    TransactionLog,
)

TRAINING = """
import os, time
from tracker_client import setup_tracker
rank = int(os.environ["RANK"])
with setup_tracker(project_name="whole-way", config={"model": {"width": 3}}) as tracker:
    tracker.define_metric("at_*", step_metric="epoch", summary="max")
    if rank == 0:
        tracker.log({"at_begin": 1.0, "epoch": 0}, step=0, commit=False)
    for step in range(int(os.environ["STEPS"])):
        tracker.log({"loss": step + rank}, step=step)
        time.sleep(float(os.environ.get("PAUSE", "0")))
    if rank == 0:
        tracker.log({"phase": "done", "at_end": 2.0}, step=0)
"""


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("WANDB_", "WB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def stub(monkeypatch):
    """A server that the daemon's environment names, with a key."""
    with wandb_stub.WandbStub() as stub:
        for name, value in stub.environment.items():
            monkeypatch.setenv(name, value)
        yield stub


def logs(outdir):
    return sorted(outdir.glob("wandb/*run-*/run-*.wandb"))


def recorded(outdir):
    """Rows and configuration in the only directory that the run has."""
    (log,) = logs(outdir)
    found = list(TransactionLog(log).read())
    rows = [{**row.values, "_step": row.step} for row in found if isinstance(row, LoggedRow)]
    config = {}
    for change in found:
        if isinstance(change, LoggedConfig):
            config.update(change.values)
    return rows, config


def assert_definitions_are_there(outdir):
    (log,) = logs(outdir)
    defined = [one for one in TransactionLog(log).read() if isinstance(one, LoggedMetric)]
    assert defined == [LoggedMetric("at_begin", "epoch", "max"), LoggedMetric("at_end", "epoch", "max")]


def assert_the_whole_run_is_there(rows, config, steps, ranks):
    cells = {
        name: [(row["step"], row[name]) for row in rows if name in row]
        for name in ("loss", "loss/mean", "loss/max", "phase")
    }
    assert sorted(cells["loss"]) == [(step, step) for step in range(steps)]
    assert sorted(cells["loss/mean"]) == [(step, step + (ranks - 1) / 2) for step in range(steps)]
    assert sorted(cells["loss/max"]) == [(step, step + ranks - 1) for step in range(steps)]
    assert cells["phase"] == [(0, "done")]
    own = [row["_step"] for row in rows]
    assert own == sorted(set(own))
    assert config["model"] == {"width": 3}


def stat(pid):
    """State, parent and so on of a process; None when there is none."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def child_of(daemon):
    """The daemon's child that runs the W&B backend, once it has begun the run."""
    for path in Path("/proc").glob("[0-9]*"):
        fields = stat(path.name)
        if fields and int(fields[1]) == daemon.process.pid and fields[0] != "Z":
            try:
                if b"backends.wandb.backend" in (path / "cmdline").read_bytes():
                    return int(path.name)
            except OSError:
                continue
    return None


def core_of(child):
    """The SDK's own process; the child starts others too, which end at once."""
    for path in Path("/proc").glob("[0-9]*"):
        fields = stat(path.name)
        if fields and int(fields[1]) == child and fields[0] != "Z":
            with suppress(OSError):
                if (path / "comm").read_text().strip() == "wandb-core":
                    return int(path.name)
    return None


def awaited(find, what):
    """The process that ``find`` finds, once there is one: it may just be being replaced."""
    found = []
    wait_until(lambda: found.append(find()) or found[-1], what)
    return found[-1]


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: (stat(pid) or "Z")[0] == "Z", f"process {pid} to end")


def kill_child(daemon):
    kill(awaited(lambda: child_of(daemon), "the child"))


def kill_core(daemon):
    kill(awaited(lambda: core_of(child_of(daemon)), "the SDK's process"))


def kill_daemon(daemon):
    daemon.kill()
    daemon.start()


def test_four_ranks_end_in_an_offline_run(make_daemon, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    daemon = make_daemon("--backends", "wandb")
    Ranks(daemon).run(TRAINING, 4, STEPS="200")
    assert daemon.stop() == 0, daemon.log()
    assert_the_whole_run_is_there(*recorded(daemon.outdir), 200, 4)
    assert_definitions_are_there(daemon.outdir)
    ((backend,),) = [run["backends"] for run in daemon.last_status()["runs"]]
    assert backend["pending"] == 0
    assert backend["location"] == str(logs(daemon.outdir)[0].parent)


def test_four_ranks_end_in_an_online_run(make_daemon, stub):
    daemon = make_daemon("--backends", "wandb")
    Ranks(daemon).run(TRAINING, 4, STEPS="200")
    assert daemon.stop() == 0, daemon.log()
    (run,) = stub.runs.values()
    assert_the_whole_run_is_there(run.rows, run.config, 200, 4)
    assert (run.project, run.exit_code) == ("whole-way", 0)


def test_what_a_sweeps_agent_and_a_user_set_on_the_ranks_reaches_the_run(make_daemon, stub):
    daemon = make_daemon("--backends", "wandb")
    Ranks(daemon).run(
        TRAINING, 2, STEPS="5",
        WANDB_SWEEP_ID="sweep1", WANDB_RUN_ID="trial7", WANDB_PROJECT="not-this-one", WANDB_DISABLED="false",
        WANDB_RUN_GROUP="the-group", WANDB_NAME="the-name", WANDB_TAGS="a,b", WANDB_ENTITY="the-team",
    )  # fmt: skip
    assert daemon.stop() == 0, daemon.log()
    run = stub.runs["trial7"]
    assert_the_whole_run_is_there(run.rows, run.config, 5, 2)
    told = {name: run.merged(name) for name in ("sweep", "groupName", "displayName", "tags", "host")}
    assert told == {
        "sweep": "sweep1", "groupName": "the-group", "displayName": "the-name", "tags": ["a", "b"],
        "host": socket.gethostname(),
    }  # fmt: skip
    assert (run.project, run.entity) == ("whole-way", "the-team")
    assert "tracker_daemon" not in (run.merged("program") or "")


@pytest.mark.long
@pytest.mark.parametrize("mode", ["offline", "online"])
def test_whatever_is_killed_mid_run_every_row_is_there_once(make_daemon, stub, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    daemon = make_daemon("--backends", "wandb")
    started = Ranks(daemon).start(TRAINING, range(4), 4, STEPS="800", PAUSE="0.01")
    for killing in (kill_child, kill_core, kill_daemon):
        wait_until(lambda: (child := child_of(daemon)) and core_of(child), "the SDK's process")
        killing(daemon)
    for process in started:
        finish(process)
    assert daemon.stop() == 0, daemon.log()
    if mode == "offline":
        rows, config = recorded(daemon.outdir)
        assert_definitions_are_there(daemon.outdir)
    else:
        (run,) = stub.runs.values()
        rows, config = run.rows, run.config
        assert run.exit_code == 0
    assert_the_whole_run_is_there(rows, config, 800, 4)
    assert len(logs(daemon.outdir)) == 1


def test_without_a_key_the_backend_is_paused_the_data_kept_and_csv_goes_on(make_daemon):
    daemon = make_daemon("--backends", "wandb,csv", "--drain-timeout-s", "3600")
    (told,) = Ranks(daemon).start(WAITING, [0], 1)
    while "wandb is paused: W&B has no API key; set WANDB_API_KEY" not in (line := told.stderr.readline()):
        assert line, "the rank ended before it was told"
    told.communicate("\n", timeout=60)
    Ranks(daemon).run(TRAINING, 2, STEPS="20", TRACKER_LAUNCH_ID="the next")

    def paused():
        *_, run = sorted(daemon.status()["runs"], key=lambda run: run["records"]["emitted"])
        backends = {backend["name"]: backend for backend in run["backends"]}
        wandb = backends["wandb"]
        return (
            wandb["state"] == "paused"
            and wandb["pending"] >= 20
            and backends["csv"]["pending"] == 0
            and wandb
        )

    wait_until(paused, "the backend to be paused")
    assert "WANDB_API_KEY" in paused()["reason"]
    assert max(len(daemon.rows(path.parent)) for path in daemon.outdir.rglob("metrics.csv")) >= 20
    assert daemon.stop() == 0  # long before the end of an hour's draining, which would bring no key


def backend_of(daemon):
    ((backend,),) = [run["backends"] for run in daemon.status()["runs"]]
    return backend


def shows(daemon, state, reason):
    if not daemon.status()["runs"]:
        return False
    backend = backend_of(daemon)
    return backend["state"] == state and reason in (backend["reason"] or "")


def test_once_there_is_a_key_a_paused_backend_goes_on_by_itself(make_daemon, stub, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.chdir(tmp_path)
    daemon = make_daemon("--backends", "wandb")
    Ranks(daemon).run(TRAINING, 2, STEPS="20")
    wait_until(lambda: shows(daemon, "paused", "WANDB_API_KEY"), "the backend to be paused")
    (tmp_path / ".env").write_text(f"WANDB_API_KEY={wandb_stub.API_KEY}\n")
    wait_until(lambda: any(run.exit_code == 0 for run in stub.runs.values()), "the run's end")
    (run,) = stub.runs.values()
    assert_the_whole_run_is_there(run.rows, run.config, 20, 2)


WAITING = """
import sys
from tracker_client import setup_tracker
with setup_tracker(project_name="waiting") as tracker:
    tracker.log({"loss": 1.0}, step=0)
    sys.stdin.readline()
    tracker.log({"loss": 2.0}, step=1)
    sys.stdin.read()
"""


@pytest.mark.long
def test_an_outage_shows_while_the_run_has_nothing_to_log_and_a_refusal_too(make_daemon, stub, monkeypatch):
    monkeypatch.setenv("WANDB__FILE_STREAM_TRANSMIT_INTERVAL", "0.5")
    monkeypatch.setenv("WANDB__FILE_STREAM_RETRY_WAIT_MAX_SECONDS", "1")
    stub.answer_file_stream = lambda: 503
    daemon = make_daemon("--backends", "wandb")
    (process,) = Ranks(daemon).start(WAITING, [0], 1)
    wait_until(lambda: shows(daemon, "retrying", "HTTP 503"), "the outage to be shown")
    assert backend_of(daemon)["delivered"] == 1  # it is safe in the SDK's own file
    stub.answer_file_stream = lambda: 200
    wait_until(lambda: shows(daemon, "healthy", ""), "the outage to end")
    (run,) = stub.runs.values()
    wait_until(lambda: [row["loss"] for row in run.rows] == [1.0], "the row to be sent again")
    stub.answer_file_stream = lambda: 403
    process.stdin.write("\n")
    process.stdin.flush()
    wait_until(lambda: shows(daemon, "paused", "HTTP 403"), "the refusal to be shown")
    stub.answer_file_stream = lambda: 200
    finish(process)
    assert daemon.stop() == 0, daemon.log()
    assert run.exit_code == 0
    assert [row["loss"] for row in run.rows] == [1.0, 2.0]
