"""Credentials stay with the one process that needs them: four ranks, two services, every byte left behind."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.ranks import Ranks, finish
from tests.support.servers import wandb_stub
from tests.support.waiting import wait_until

pytest.importorskip("mlflow")
pytest.importorskip("wandb")
from tests.support.servers.mlflow_server import Gateway

TOKEN = "mlflow-token-of-the-daemon-0123456789"
KEY = wandb_stub.API_KEY
PARTS = ("MlflowBackend", "WandbBackend", "wandb-core", "serve")
"""What tells the processes of a daemon apart, in their command lines."""
OWN = ("MLFLOW_", "AMSC_", "AM_SC_", "WANDB_", "WB_")

TRAINING = """
import os, sys
from tracker_client import setup_tracker
with setup_tracker(project_name="secrets", config={"lr": 0.1}) as tracker:
    for step in range(20):
        tracker.log({"loss": float(step)}, step=step)
    print(sorted(os.environ), flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def own_environment(monkeypatch, tmp_path):
    """Nothing of the one who runs the tests; the daemon's working directory is the test's."""
    for name in [name for name in os.environ if name.startswith(OWN)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


class Recorder:
    """Stands between clients and a daemon, and keeps every byte that passes, either way."""

    def __init__(self, endpoint):
        host, _, port = endpoint.rpartition(":")
        self._daemon = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.passed = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                daemon = socket.create_connection(self._daemon)
                for ends in ((client, daemon), (daemon, client)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source, target):
        passed = bytearray()
        self.passed.append(passed)
        with contextlib.suppress(OSError), source, target:
            while some := source.recv(65536):
                passed += some
                target.sendall(some)


def family(mark):
    """(what it is, its command line and environment) for every process that came of this test."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment, command = (path / "environ").read_bytes(), (path / "cmdline").read_bytes()
        except OSError:  # ended meanwhile
            continue
        if mark in environment:
            known = (name for name in PARTS if name.encode() in command)
            yield next(known, "rank"), command + environment


def holders(processes, secret):
    return {part for part, text in processes if secret.encode() in text}


def all_record(daemon):
    backends = [backend for run in daemon.status()["runs"] for backend in run["backends"]]
    return len(backends) == 3 and all(
        backend["state"] == "healthy" and backend["delivered"] >= 20 for backend in backends
    )


def shown(daemon):
    """The status as a person and as a machine reads it."""
    command = [sys.executable, "-m", "tracker_daemon", "status", "--endpoint-file", str(daemon.endpoint_file)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return text + json.dumps(daemon.status())


def test_a_secret_is_with_its_backends_own_process_and_in_nothing_else_that_a_run_leaves(
    server, make_daemon, own_environment, monkeypatch, tmp_path
):
    (tmp_path / ".env").write_text(f"MLFLOW_TRACKING_TOKEN={TOKEN}\n")
    mark = f"TRACKER_TEST_MARK={tmp_path}"
    monkeypatch.setenv(*mark.split("="))
    with wandb_stub.WandbStub() as stub, Gateway(server) as gateway:
        gateway.admit = lambda headers: None if headers.get("authorization") == f"Bearer {TOKEN}" else 401
        services = {**stub.environment, "MLFLOW_TRACKING_URI": gateway.uri}
        for name, value in services.items():
            monkeypatch.setenv(name, value)
        daemon = make_daemon("--backends", "csv,mlflow,wandb", by_exec=True)
        for name in services:
            monkeypatch.delenv(name)
        wire = Recorder(daemon.endpoint["endpoint"])
        where = {"TRACKER_ENDPOINT": wire.endpoint, "TRACKER_TOKEN": daemon.endpoint["token"]}
        started = Ranks(daemon).start(TRAINING, range(4), 4, **where)
        wait_until(lambda: all_record(daemon), "all backends to record", 120)
        processes, status = list(family(mark.encode())), shown(daemon)
        for process in started:
            process.stdin.write("\n")
            process.stdin.flush()
        variables = "".join(finish(process) for process in started)
        assert daemon.stop() == 0, daemon.log()
        wire.close()
        (run,) = stub.runs.values()
        assert [row["loss"] for row in run.rows if "loss" in row] == [float(step) for step in range(20)]

    assert {part for part, _ in processes} == {"rank", *PARTS}
    assert holders(processes, TOKEN) == {
        "MlflowBackend"
    }  # the daemon has it from the file, for its child only
    assert holders(processes, KEY) == {"WandbBackend", "wandb-core", "serve"}
    assert not any(f"'{name}'" in variables for name in (*services, "MLFLOW_TRACKING_TOKEN"))
    passed = b"".join(wire.passed)
    assert b"loss" in passed
    left = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".env"}
    assert {"journal.sqlite3", "daemon.log", "metrics.csv"} <= {path.name for path in left}
    for secret in (TOKEN, KEY):
        assert secret.encode() not in passed
        assert secret not in status
        assert [path for path, content in left.items() if secret.encode() in content] == []
