"""Remote handles: what scripts read of an MLflow and a W&B run that are written at the daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.ranks import Ranks
from tests.support.servers import wandb_stub

pytest.importorskip("wandb")
pytest.importorskip("mlflow")
from mlflow import MlflowClient

from tracker_daemon.backends.wandb.transaction_log import LoggedConfig, LoggedRow, TransactionLog

READING = """
import json, os
from tracker_client import TrackerBackend, setup_tracker
from tracker_client.errors import NotRemote

def tell(**told):
    print(json.dumps(told))

tracker = setup_tracker("handled", backends=os.environ["BACKENDS"], config={"lr": 0.1}, handle_timeout=60,
                        name="first", wandb={"group": "g"})
tracker.log({"loss": 1.0}, step=0)
tell(present=[name for name in ("csv", "wandb", "mlflow", "memory") if tracker.get_backend(name)])
run = tracker.wandb_run
tell(**{name: getattr(run, name) for name in ("id", "name", "project", "entity", "group", "url", "offline")})
run.config.update({"width": 8})
run.config["depth"] = 3
run.summary["best"] = 0.5
tell(config=dict(run.config), lr=run.config.lr, best=run.summary["best"])
backend = tracker.get_backend("wandb")
assert isinstance(backend, TrackerBackend) and backend.run is run
backend.log({"loss": 2.0}, step=1)
try:
    run.use_artifact("data:latest")
except NotRemote as error:
    tell(use_artifact=str(error))
assert not hasattr(run, "no_such_thing")
try:
    run.summary["loss"]
except KeyError as error:
    tell(summary=str(error))
if "mlflow" in os.environ["BACKENDS"]:
    info = tracker.mlflow_run.info
    tell(run_id=info.run_id, experiment_id=info.experiment_id, run_name=info.run_name, at=info.artifact_uri,
         run_url=tracker.get_backend("mlflow").run_url, tracking_uri=tracker.mlflow_run.tracking_uri)
    try:
        tracker.mlflow_run.data.params
    except NotRemote as error:
        tell(data=str(error))
tracker.finish(wait="delivered")
tell(after=run.id)
"""


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("WANDB_", "WB_", "MLFLOW_", "AMSC_", "AM_SC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def told(printed):
    return {name: value for line in printed.splitlines() for name, value in json.loads(line).items()}


def test_handles_of_a_local_store_and_an_offline_run_name_what_is_written(
    make_daemon, empty_database, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    daemon = make_daemon("--backends", "csv", mlflow_store=empty_database)
    (printed,) = Ranks(daemon).run(READING, 1, BACKENDS="csv,wandb,mlflow")
    read = told(printed)
    assert read["present"] == ["csv", "wandb", "mlflow"]
    # W&B
    (log,) = daemon.outdir.glob("wandb/offline-run-*/run-*.wandb")
    assert log.stem == f"run-{read['id']}"
    assert (read["name"], read["project"], read["group"]) == ("first", "handled", "g")
    assert (read["url"], read["offline"], read["after"]) == (None, True, read["id"])
    logged = list(TransactionLog(log).read())
    rows = [row.values for row in logged if isinstance(row, LoggedRow)]
    assert [row["loss"] for row in rows if "loss" in row] == [1.0, 2.0]
    assert [row["best"] for row in rows if "best" in row] == [0.5]
    config = {}
    for change in logged:
        if isinstance(change, LoggedConfig):
            config.update(change.values)
    assert (config["width"], config["depth"]) == (8, 3)
    assert read["config"] == {"lr": 0.1, "width": 8, "depth": 3}
    assert (read["lr"], read["best"]) == (0.1, 0.5)
    assert "wandb.Api().artifact" in read["use_artifact"]
    # MLflow
    run = MlflowClient(f"sqlite:///{daemon.outdir}/mlflow.db").get_run(read["run_id"])
    assert run.info.experiment_id == read["experiment_id"]
    assert run.info.run_name == read["run_name"] == "first"
    assert run.info.artifact_uri == read["at"]
    assert read["run_url"] is None
    assert "wandb_run.url" in read["summary"]
    assert "MlflowClient(mlflow_run.tracking_uri).get_run(mlflow_run.info.run_id).data" in read["data"]
    data = MlflowClient(read["tracking_uri"]).get_run(read["run_id"]).data
    assert (data.params["config.lr"], data.metrics["best"]) == ("0.1", 0.5)


def test_handles_of_an_online_run_have_its_url(make_daemon, monkeypatch):
    with wandb_stub.WandbStub() as stub:
        for name, value in stub.environment.items():
            monkeypatch.setenv(name, value)
        daemon = make_daemon("--backends", "csv")
        ranks = Ranks(daemon)
        (printed,) = ranks.run(READING, 1, BACKENDS="wandb", **dict.fromkeys(stub.environment, ""))
    read = told(printed)
    assert read["url"].startswith(stub.environment["WANDB_BASE_URL"])
    assert read["url"].endswith(f"/handled/runs/{read['id']}")
    assert read["entity"]
    assert read["offline"] is False


def test_a_paused_backend_s_id_is_known_and_its_url_is_none_at_once_with_the_reason(make_daemon):
    daemon = make_daemon("--backends", "csv")
    (process,) = Ranks(daemon).start(
        "from tracker_client import setup_tracker\n"
        "tracker = setup_tracker('p', backends='wandb', handle_timeout=60)\n"
        "print(tracker.wandb_run.url, tracker.wandb_run.id)\n"
        "tracker.finish()",
        [0],
        1,
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    (run,) = daemon.status()["runs"]
    assert out == f"None {run['run_id']}\n"
    assert (
        err.count("'wandb url': it is None for now: wandb is paused: W&B has no API key; set WANDB_API_KEY")
        == 1
    )


GIVEN = """
import sys
from tracker_client import setup_tracker
tracker = setup_tracker("p", endpoint="127.0.0.1:9", token="t", exit_timeout=0, handle_timeout=60, **{HOW})
print(tracker.run_id if "run_id" in sys.argv else "", tracker.wandb_run.id)
"""


@pytest.mark.parametrize(
    ("how", "expected"),
    [('{"run_id": "mine"}', "mine mine"), ('{"wandb": {"id": "w1"}, "backends": "wandb"}', "w1")],
)
def test_an_id_that_the_script_gives_is_known_at_once_without_a_daemon(how, expected):
    more = {"run_id": "mine"} if "run_id" in how else {}
    script = GIVEN.replace("{HOW}", how.replace("}", ', "backends": "wandb"}') if more else how)
    command = [sys.executable, "-c", script, *more]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    assert out.split() == expected.split()
