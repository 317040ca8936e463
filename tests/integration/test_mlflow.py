"""MLflow for real: a ``mlflow server`` over HTTP, and the whole way from four ranks to a run."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from tests.support.ranks import Ranks, finish
from tests.support.servers.mlflow_server import Gateway, MlflowServer
from tests.support.waiting import wait_until
from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.mlflow.backend import MlflowBackend
from tracker_daemon.backends.mlflow.child import SETTINGS, MlflowChildBackend
from tracker_daemon.delivery.pump import Pump
from tracker_daemon.errors import BackendRefused, BackendUnavailable
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry

TIME_NS = 1_700_000_000_000_000_000


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """No MLflow settings and no files of the one who runs the tests."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "AMSC_", "AM_SC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def client(server):
    return MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)


@pytest.fixture
def project(request):
    """An experiment of this test's own, on the server that the tests share."""
    return request.node.name.replace("[", "_").replace("]", "")


@pytest.fixture
def describe(tmp_path, project):
    def describe(run_id="run-a", **fields):
        return RunDescription(run_id, project, "the-name", tmp_path / "out", **fields)

    return describe


@pytest.fixture
def make_backend():
    """The backend as a daemon has it, in a process of its own."""
    made = []

    def make(**deadlines):
        made.append(MlflowChildBackend(**deadlines))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def backend_here(monkeypatch):
    """The backend in this process, with the settings of its child process, which takes 2 s to begin."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "")  # the backend sets it, so that it is to be restored
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    backend = MlflowBackend()
    yield backend
    backend.close()


def block(columns, rows, first_step=0):
    steps = np.arange(first_step, first_step + rows)
    values = np.repeat(steps[:, None].astype(float), len(columns), axis=1)
    times = TIME_NS + steps * 1_000_000
    return RecordBlock(1, 1, tuple(columns), steps, times, values)


def entry(number, content):
    if isinstance(content, RecordBlock):
        return OutboxEntry(number, EntryKind.RECORDS, content.to_bytes())
    kind = EntryKind.END if "status" in content else EntryKind.CONFIG
    return OutboxEntry(number, kind, json.dumps(content).encode())


def on_the_way(state):
    """Ignore heartbeats, which a delivery has on a slow machine."""


def the_run(client, project):
    experiment = client.get_experiment_by_name(project)
    (run,) = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    return run


def points(client, run, key):
    """By step: MLflow orders by time, and a step that waited for a further metric is recorded later."""
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, key))


# ---- a server over HTTP --------------------------------------------------------------------------


def test_a_server_gets_every_kind_of_value_and_says_where_the_run_is(
    server, client, make_backend, describe, project, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    backend = make_backend()
    backend.open(describe(environment={"user": "ada", "git_commit": "c0ffee"}), None)
    odd = RecordBlock(
        1, 1, ("nan", "inf", "-inf", "loss[%]"), np.zeros(1, np.int64),
        np.full(1, TIME_NS), np.array([[math.nan, math.inf, -math.inf, 1.5]]),
    )  # fmt: skip
    config = {"text": "é" * 7000, **{f"key{n}": n for n in range(300)}}
    contents = [config, odd, block(["x", "x/mean"], 700), {"status": "FAILED", "reason": "rank 2 was lost"}]
    backend.deliver([entry(number, content) for number, content in enumerate(contents, 1)], on_the_way)
    run = the_run(client, project)
    assert backend.location() == f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    handles = backend.handles()
    assert (handles["run_url"], handles["tracking_uri"]) == (backend.location(), server.uri)
    assert (handles["run_id"], handles["artifact_uri"]) == (run.info.run_id, run.info.artifact_uri)
    assert points(client, run, "x") == [(step, float(step)) for step in range(700)]
    assert math.isnan(run.data.metrics["nan"])
    assert run.data.metrics["inf"] == -run.data.metrics["-inf"] == sys.float_info.max
    assert "loss[%]" in run.data.tags.values()
    assert run.data.params["config.key299"] == "299"
    assert (run.data.tags["mlflow.user"], run.data.tags["mlflow.source.git.commit"]) == ("ada", "c0ffee")
    assert (run.info.status, run.data.tags["tracker.end_reason"]) == ("FAILED", "rank 2 was lost")
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")


@pytest.fixture
def own_server(tmp_path, empty_database):
    """A server that this test may kill."""
    home = tmp_path / "server"
    home.mkdir()
    shutil.copy(empty_database, home / "server.db")
    server = MlflowServer(home).start()
    yield server
    server.kill()


@pytest.mark.long
def test_a_server_killed_and_restarted_mid_way_and_a_killed_child_leave_every_point_once(
    own_server, make_backend, describe, project, monkeypatch
):
    server = own_server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    rows, blocks = 500, 12
    entries = [entry(n + 1, block(["x", "x/mean"], rows, n * rows)) for n in range(blocks)]
    entries.append(entry(blocks + 1, {"status": "FINISHED", "reason": ""}))
    backend, lost = make_backend(), []

    def commit(position, state, records, set_aside):
        if position == 3 and not lost:
            lost.append(position)
            os.kill(backend.pid, signal.SIGKILL)
            raise BackendUnavailable("the store has it, and the journal does not")
        if position == 6 and server.process is not None and 6 not in lost:
            lost.append(position)
            threading.Timer(0.02, server.kill).start()  # while the next request is on its way

    pump = Pump(backend, describe(), read=lambda after: entries[after : after + 1], commit=commit)
    pump.start()
    pump.notify()
    wait_until(lambda: server.uri in pump.health().reason, "the outage to be noticed")
    assert pump.health().state.value == "retrying"
    server.start()
    assert pump.drain(time.monotonic() + 120), pump.health()
    pump.stop(60)
    assert lost == [3, 6]
    client = MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)
    run = the_run(client, project)
    assert run.info.status == "FINISHED"
    for key in ("x", "x/mean"):
        assert points(client, run, key) == [(step, float(step)) for step in range(rows * blocks)]


def test_a_server_that_is_not_there_is_unavailable(make_backend, describe, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(BackendUnavailable, match=r"http://127\.0\.0\.1:9"):
        make_backend().open(describe(), None)


def test_a_server_that_accepts_and_never_answers_is_given_up_at_the_deadline(
    make_backend, describe, monkeypatch
):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        backend = make_backend(open_deadline_s=5.0)
        with pytest.raises(BackendUnavailable, match="sent nothing for 5 s"):
            backend.open(describe(), None)


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_pause_the_backend_and_it_goes_on_when_they_are_taken(
    server, client, backend_here, describe, project, monkeypatch, status
):
    with Gateway(server, lambda headers: status) as gateway:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", gateway.uri)
        entries = [entry(1, block(["x"], 10)), entry(2, {"status": "FINISHED", "reason": ""})]
        pump = Pump(backend_here, describe(), read=lambda after: entries[after:], commit=lambda *cursor: None)
        pump.start()
        pump.notify()
        wait_until(lambda: pump.health().state.value == "paused", "the backend to pause")
        assert gateway.uri in pump.health().reason
        gateway.admit = lambda headers: None
        assert pump.drain(time.monotonic() + 60), pump.health()
        pump.stop(30)
    assert points(client, the_run(client, project), "x") == [(step, float(step)) for step in range(10)]


def test_what_the_servers_store_refuses_is_set_aside_and_the_rest_goes_on(
    server, client, backend_here, describe, project, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    with closing(sqlite3.connect(server.home / "server.db")) as database:
        database.execute(
            "CREATE TRIGGER stricter BEFORE INSERT ON metrics WHEN NEW.key = 'refused' "
            "BEGIN SELECT RAISE(ABORT, 'this key is not taken here'); END"
        )
    entries = [entry(1, block(["x", "refused"], 5)), entry(2, block(["y"], 5))]
    pump = Pump(backend_here, describe(), read=lambda after: entries[after:], commit=lambda *cursor: None)
    pump.start()
    pump.notify()
    assert pump.drain(time.monotonic() + 60), pump.health()
    pump.stop(30)
    health = pump.health()
    assert (health.state.value, health.delivered_records, health.set_aside_records) == ("healthy", 5, 5)
    assert "5 of 'refused'" in health.set_aside_reason
    run = the_run(client, project)
    assert points(client, run, "x") == points(client, run, "y") == [(n, float(n)) for n in range(5)]
    assert "refused" not in run.data.metrics


@pytest.mark.parametrize("code", ["BAD_REQUEST", "INVALID_PARAMETER_VALUE"])
def test_a_server_that_calls_everything_bad_pauses_and_costs_no_record(
    server, client, backend_here, describe, project, monkeypatch, code
):
    with Gateway(server) as gateway:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", gateway.uri)
        backend, entries = backend_here, [entry(1, block(["x"], 10))]
        backend.open(describe(), None)
        gateway.refusal = {"error_code": code, "message": "not like this"}
        gateway.admit = lambda headers: 400
        with pytest.raises(BackendRefused, match="refuses every write"):
            backend.deliver(entries, on_the_way)
        gateway.admit = lambda headers: None
        backend.deliver(entries, on_the_way)
        assert backend.set_aside() == ()
    assert points(client, the_run(client, project), "x") == [(step, float(step)) for step in range(10)]


def test_the_api_key_goes_to_the_configured_server_as_a_header_and_nowhere_else(
    server, make_backend, describe, monkeypatch
):
    key = "amsc-key-0123456789"
    with (
        Gateway(server, lambda headers: None if headers.get("x-api-key") == key else 403) as gateway,
        Gateway(server) as elsewhere,
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", gateway.uri)
        monkeypatch.setenv("AM_SC_API_KEY", key)
        backend = make_backend()
        backend.open(describe(), None)
        backend.deliver([entry(1, block(["x"], 10))], on_the_way)
        assert all(headers["x-api-key"] == key for headers in gateway.headers)
        backend.close()
        script = SEES_ITS_HEADERS.format(ours=gateway.uri, other=elsewhere.uri)
        subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
        assert elsewhere.headers
        assert not any("x-api-key" in headers for headers in elsewhere.headers)


# In one process: the backend's connection, then another client to another server, then the first again.
SEES_ITS_HEADERS = """
import os
from pathlib import Path
from mlflow import MlflowClient
from tracker_daemon.backends.mlflow.connection import MlflowConnection
from tracker_daemon.backends.mlflow.store_address import StoreAddress
os.environ["MLFLOW_TRACKING_URI"] = "{ours}"
ours = MlflowConnection(StoreAddress.of(os.environ, Path("/nowhere")), os.environ)
MlflowClient(tracking_uri="{other}").search_experiments()
ours.call(lambda client: client.search_experiments())
MlflowClient(tracking_uri="{other}").search_experiments()
"""


def test_a_bearer_token_wins_over_the_key_and_is_read_again_from_its_file_when_refused(
    server, backend_here, describe, tmp_path, monkeypatch
):
    token = tmp_path / "token"
    token.write_text("first\n")
    wanted = ["first"]
    admit = lambda headers: None if headers.get("authorization") == f"Bearer {wanted[0]}" else 401  # noqa: E731
    with Gateway(server, admit) as gateway:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", gateway.uri)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN_FILE", str(token))
        monkeypatch.setenv("AMSC_API_KEY", "not-to-be-sent")
        backend_here.open(describe(), None)
        wanted[0] = "second"
        with pytest.raises(BackendRefused, match="MLFLOW_TRACKING_TOKEN"):
            backend_here.deliver([entry(1, block(["x"], 10))], on_the_way)
        token.write_text("second\n")
        backend_here.deliver([entry(1, block(["x"], 10))], on_the_way)
        assert not any("x-api-key" in headers for headers in gateway.headers)


def test_a_password_in_the_uri_is_used_and_shown_nowhere(server, make_backend, describe, monkeypatch):
    with Gateway(server) as gateway:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", gateway.uri.replace("://", "://ada:hunter2@"))
        backend = make_backend()
        backend.open(describe(), None)
        assert "hunter2" not in backend.location()
        assert "hunter2" not in str(backend.handles())
        assert gateway.headers[-1]["authorization"].startswith("Basic ")
        gateway.admit = lambda headers: 403
        with pytest.raises(BackendRefused) as raised:
            backend.deliver([entry(1, block(["x"], 10))], on_the_way)
        assert "hunter2" not in str(raised.value)


def test_an_experiment_that_was_deleted_is_refused_with_what_to_do(
    server, client, backend_here, describe, project, monkeypatch
):
    experiment = client.create_experiment(project)
    client.delete_experiment(experiment)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    with pytest.raises(BackendRefused, match=f"mlflow experiments restore --experiment-id {experiment}"):
        backend_here.open(describe(), None)
    backend_here.open(describe(options={"experiment_name": f"{project}.v2"}), None)
    assert client.get_experiment_by_name(f"{project}-v2") is not None


# ---- the whole way -------------------------------------------------------------------------------

TRAINING = """
import os
from tracker_client import setup_tracker
rank = int(os.environ["RANK"])
with setup_tracker("whole.way", config={"model": {"width": 3}}) as tracker:
    for step in range(int(os.environ["STEPS"])):
        tracker.log({"loss": float(step + rank)}, step=step)
    if rank == 0:
        tracker.log({"lr": 0.1, "phase": "done"}, step=0)
"""


def children_of(pid):
    """The daemon's children that run a backend."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = path.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"backends.mlflow.backend" in command:
            found.append(int(path.parent.name))
    return found


def assert_the_whole_run_is_there(client, steps, ranks, project="whole-way"):
    run = the_run(client, project)
    assert run.info.status == "FINISHED"
    assert points(client, run, "loss") == [(step, float(step)) for step in range(steps)]
    assert points(client, run, "loss/mean") == [(step, step + (ranks - 1) / 2) for step in range(steps)]
    assert points(client, run, "loss/max") == [(step, float(step + ranks - 1)) for step in range(steps)]
    assert points(client, run, "lr") == [(0, 0.1)]
    assert run.data.tags["phase"] == "done"
    assert run.data.params["config.model.width"] == "3"


def test_four_ranks_end_in_a_csv_and_a_local_mlflow_run(make_daemon):
    daemon = make_daemon("--backends", "csv,mlflow")
    Ranks(daemon).run(TRAINING, 4, STEPS="200")
    assert daemon.stop() == 0, daemon.log()
    (run,) = daemon.last_status()["runs"]
    assert {backend["name"]: backend["pending"] for backend in run["backends"]} == {"csv": 0, "mlflow": 0}
    uri = f"sqlite:///{daemon.outdir}/mlflow.db"
    assert_the_whole_run_is_there(MlflowClient(tracking_uri=uri, registry_uri=uri), 200, 4)
    assert len(daemon.rows()) >= 200


ALONE = """
from tracker_client import setup_tracker
with setup_tracker("told") as tracker:
    tracker.log({"loss": 1.0})
"""


def test_run_tells_at_the_start_and_at_the_end_where_each_backend_records(
    server, client, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    command = [sys.executable, "-m", "tracker_daemon", "run", "--backends", "csv,mlflow", "--outdir", "out"]
    ended = subprocess.run(
        [*command, "--", sys.executable, "-c", ALONE],
        check=True, capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    run = the_run(client, "told")
    link = f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    told = [line for line in ended.stderr.splitlines() if link in line]
    assert f"mlflow → experiment told, run {run.info.run_name}, {link}" in told[0]
    assert told[1] == f"tracker-daemon:   mlflow: 1 delivered → {link}"
    assert ended.stderr.count(f"csv → {tmp_path}/out/metrics.csv") == 1
    assert "a run is recorded" in (tmp_path / "out" / ".tracker" / "daemon.log").read_text()


def test_a_daemon_killed_mid_run_and_a_killed_child_leave_every_point_once(make_daemon, empty_database):
    daemon = make_daemon("--backends", "mlflow", mlflow_store=empty_database)
    training = TRAINING.replace("    if rank == 0:", "        time.sleep(0.01)\n    if rank == 0:")
    ranks = Ranks(daemon)
    started = ranks.start("import time\n" + training, range(4), 4, STEPS="600")
    for end in (lambda: os.kill(children_of(daemon.process.pid)[0], signal.SIGKILL), daemon.kill):
        wait_until(lambda: children_of(daemon.process.pid), "the backend's process")
        (child,) = children_of(daemon.process.pid)
        end()
        wait_until(lambda child=child: not runs(child), "the child to end")
    daemon.start()
    for process in started:
        finish(process)
    assert daemon.stop() == 0, daemon.log()
    uri = f"sqlite:///{daemon.outdir}/mlflow.db"
    assert_the_whole_run_is_there(MlflowClient(tracking_uri=uri, registry_uri=uri), 600, 4)


def runs(pid):
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
