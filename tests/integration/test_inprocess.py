"""A script as the seed's users have it, with only its import line changed: alone, and with a daemon."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mlflow")
pytest.importorskip("torch")
pytest.importorskip("wandb")
from mlflow import MlflowClient

from tests.support.servers.wandb_stub import WandbStub
from tracker_daemon.backends.wandb.transaction_log import LoggedConfig, LoggedRow, TransactionLog

# What such a script does; what it imports from is all that differs from the seed's.
SCRIPT = """
import json, os, sys
from tracker_client.ezpz_compat import setup_tracker, Tracker, NullTracker

outdir = sys.argv[1]
tracker = setup_tracker(
    project_name="seedlike", backends=os.environ["BACKENDS"], config={"lr": 0.1, "net": {"width": 3}},
    outdir=outdir, tags=["a", "b"], name="first",
)
assert isinstance(tracker, Tracker)
for step in range(5):
    tracker.log({"loss": 1.0 / (step + 1), "loss/mean": 2.0, "lr": 0.1}, step=step)
tracker.log({"epoch": 1}, commit=False)
tracker.log({"accuracy": 0.5})
tracker.log_config({"late": True})
"""
ALONE = """
import wandb
tracker.log({"picture": wandb.Histogram([1, 2, 3]), "nested": {"deep": 1.5}})
import torch
model = torch.nn.Linear(2, 1)
tracker.watch(model, log="all", log_freq=1)
model(torch.ones(1, 2)).sum().backward()
tracker.log({"watched": 1.0})
tracker.unwatch(model)
model(torch.ones(1, 2)).sum().backward()
assert wandb.run is tracker.wandb_run
tracker.wandb_run.summary["best"] = 0.2
assert tracker.get_backend("wandb").run is tracker.wandb_run
assert tracker.get_backend("nonsense") is None
import numpy
tracker.log_table("predictions", ["id", "label"], [[1, "cat"], [2, None]])
tracker.log_image("sample", numpy.zeros((4, 4, 3), numpy.uint8), caption="black")
tracker.log_artifacts({"code": sys.argv[2]})
print(json.dumps({
    "mlflow": tracker.mlflow_run.info.run_id, "url": tracker.get_backend("mlflow").run_url,
    "wandb": tracker.wandb_run.id, "project": tracker.wandb_run.project, "run_id": tracker.run_id,
}))
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "MLFLOW_"))}
    return {
        **kept,
        "HOME": str(home),
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **more,
    }


def run(script: str, home: Path, *arguments: str, expected: int = 0, **more: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        check=False, env=environment(home, **more), cwd=home, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == expected, done.stderr
    return done.stdout, done.stderr


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "metrics.csv").open(newline="") as file:
        return [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The script without a daemon, on all three backends: its directory, what it printed, its warnings."""
    home = tmp_path_factory.mktemp("alone")
    (home / ".env").write_text("WANDB_MODE=offline\nOTHER=1\nMLFLOW_RUN_NAME=not-a-files-to-say\n")
    out, err = run(
        SCRIPT + ALONE + "tracker.finish()", home, str(home / "out"), __file__,
        BACKENDS="csv,wandb,mlflow", TRACKER_ENDPOINT="inprocess",
    )  # fmt: skip
    return home / "out", json.loads(out), err


def test_the_csv_file_is_the_seeds(alone):
    outdir, _, _ = alone
    written = rows(outdir)
    assert [row["step"] for row in written[:6]] == ["0", "1", "2", "3", "4", "5"]
    assert [float(row["loss"]) for row in written[:5]] == [1.0 / (step + 1) for step in range(5)]
    assert written[5] == {"step": "5", "epoch": "1", "accuracy": "0.5"}
    assert written[6] == {"step": "6", "nested.deep": "1.5"}
    config = json.loads((outdir / "config.json").read_text())
    assert config == {"lr": 0.1, "net": {"width": 3}, "late": True}


def test_the_mlflow_run_is_there_and_finished(alone):
    outdir, told, err = alone
    client = MlflowClient(f"sqlite:///{outdir}/mlflow.db")
    found = client.get_run(told["mlflow"])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "first"
    assert client.get_experiment(found.info.experiment_id).name == "seedlike"
    losses = client.get_metric_history(told["mlflow"], "loss/local")
    assert [(point.step, point.value) for point in losses] == [(s, 1.0 / (s + 1)) for s in range(5)]
    assert client.get_metric_history(told["mlflow"], "loss/mean")[0].value == 2.0
    assert client.get_metric_history(told["mlflow"], "accuracy")[0].step == 5
    assert found.data.params["config.net.width"] == "3"
    assert found.data.params["late"] == "True"
    assert "tracker.hostname" in found.data.params
    assert found.data.tags["a"] == "true"
    assert told["url"] is None
    assert "MLflow run first" in err


def test_tables_images_artifacts_and_a_watched_model_are_in_every_backend(alone):
    outdir, told, _ = alone
    assert (outdir / "predictions.csv").read_text() == "id,label\n1,cat\n2,\n"
    assert len(list(outdir.glob("images/sample.7.*.png"))) == 1
    assert (outdir / "artifacts/code" / Path(__file__).name).read_text() == Path(__file__).read_text()
    assert [row["gradients/bias/mean"] for row in rows(outdir) if "gradients/bias/mean" in row] == ["1.0"]
    client = MlflowClient(f"sqlite:///{outdir}/mlflow.db")
    assert [p.value for p in client.get_metric_history(told["mlflow"], "gradients/bias/mean")] == [1.0]
    for place in ("tables", "images", "code"):
        assert client.list_artifacts(told["mlflow"], place), place
    (directory,) = outdir.glob("wandb/offline-run-*")
    logged = {}
    for one in TransactionLog(next(directory.glob("*.wandb"))).read():
        if isinstance(one, LoggedRow):
            logged |= {name: (one.values["step"], value) for name, value in one.values.items()}
    assert logged["gradients/bias"][0] == logged["watched"][0] == 7
    assert logged["gradients/bias"][1]["_type"] == "histogram"
    assert logged["predictions"][1]["_type"] == "table-file"
    assert logged["sample"][1]["caption"] == "black"
    assert len(list(directory.glob("files/media/images/sample*.png"))) == 1


def test_the_wandb_run_is_the_real_one_and_takes_wandbs_own_objects(alone):
    outdir, told, _ = alone
    assert told["project"] == "seedlike"
    assert told["wandb"] == told["run_id"]
    (path,) = outdir.glob(f"wandb/offline-run-*/run-{told['wandb']}.wandb")
    logged = list(TransactionLog(path).read())
    steps = [row for row in logged if isinstance(row, LoggedRow)]
    assert [(row.step, row.values["step"]) for row in steps[:7]] == [(step, step) for step in range(7)]
    assert [row.values["loss"] for row in steps[:5]] == [1.0 / (step + 1) for step in range(5)]
    assert steps[6].values["picture"]["_type"] == "histogram"
    assert steps[6].values["nested"] == {"deep": 1.5}
    assert steps[7].values["step"] == 7
    assert steps[7].values["gradients/weight"]["_type"] == "histogram"
    assert steps[7].values["parameters/bias"]["_type"] == "histogram"
    assert steps[7].values["watched"] == 1.0
    assert steps[7].values["predictions"]["_type"] == "table-file"
    configs = {
        name: value for one in logged if isinstance(one, LoggedConfig) for name, value in one.values.items()
    }
    assert (configs["lr"], configs["late"]) == (0.1, True)


def test_the_same_script_streams_to_a_daemon(daemon, tmp_path):
    run(
        SCRIPT + "tracker.finish(wait='delivered')", tmp_path, str(daemon.outdir),
        BACKENDS="csv", TRACKER_ENDPOINT_FILE=str(daemon.endpoint_file),
    )  # fmt: skip
    written = [{name: cell for name, cell in row.items() if cell} for row in daemon.rows()]
    assert [row["step"] for row in written] == ["0", "1", "2", "3", "4", "5"]
    assert [float(row["loss"]) for row in written[:5]] == [1.0 / (step + 1) for step in range(5)]
    assert written[0]["loss/mean"] == "2.0"
    assert written[5] == {"step": "5", "epoch": "1", "accuracy": "0.5"}
    config = json.loads((daemon.outdir / "config.json").read_text())
    assert config == {"lr": 0.1, "net": {"width": 3}, "late": True}


def test_an_uncaught_exception_ends_the_runs_as_failed(alone, tmp_path):
    store = f"sqlite:///{alone[0]}/mlflow.db"
    script = """
import json, sys
from tracker_client import MLflowBackend, Tracker
backend = MLflowBackend("failing", {"lr": 1}, "out", 0, run_name="doomed", description="a note")
tracker = Tracker([backend])
tracker.log({"loss": 1.0})
print(backend.run.info.run_id, flush=True)
raise ValueError("diverged")
"""
    out, _ = run(script, tmp_path, expected=1, MLFLOW_TRACKING_URI=store)
    found = MlflowClient(store).get_run(out.strip())
    assert found.info.status == "FAILED"
    assert found.data.metrics == {"loss": 1.0}
    assert found.data.tags["mlflow.note.content"] == "a note"


def test_a_run_is_taken_up_again_by_its_id(alone, tmp_path):
    outdir, told, _ = alone
    script = """
import sys
from tracker_client import setup_tracker
outdir, run_id = sys.argv[1:]
with setup_tracker("seedlike", "csv,mlflow", outdir=outdir, run_id=run_id, endpoint="inprocess") as tracker:
    from mlflow import MlflowClient
    mlflow_id = tracker.mlflow_run.info.run_id
    print(mlflow_id, MlflowClient(f"sqlite:///{outdir}/mlflow.db").get_run(mlflow_id).info.status)
    tracker.log({"late": 1.0}, step=50)
"""
    out, _ = run(script, tmp_path, str(outdir), told["run_id"])
    assert out.split() == [told["mlflow"], "RUNNING"]
    found = MlflowClient(f"sqlite:///{outdir}/mlflow.db").get_run(told["mlflow"])
    assert found.info.status == "FINISHED"
    assert found.data.metrics["late"] == 1.0
    assert found.data.metrics["accuracy"] == 0.5


QUIET = """
mlflow = tracker.get_backend("mlflow")
assert (mlflow._active, mlflow.run, mlflow.run_url, tracker.mlflow_run) == (False, None, None, None)
tracker.log_table("t", ["a"], [[1]])
tracker.log_artifacts({"none": "nowhere"})
assert tracker.status().backend_failures == 0
"""


def test_a_store_that_cannot_be_had_leaves_the_other_backends(tmp_path):
    out, err = run(
        SCRIPT + QUIET + "tracker.finish(); print([type(one).__name__ for one in tracker._backends])",
        tmp_path, str(tmp_path / "out"),
        BACKENDS="mlflow,wandb,csv", TRACKER_ENDPOINT="inprocess", WANDB_API_KEY="",
        MLFLOW_TRACKING_URI="http://127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
    )  # fmt: skip
    assert out.strip() == "['MLflowBackend', 'WandbBackend', 'CSVBackend']"
    assert err.count("MLflow records nothing of this run") == 1
    assert "W&B has no API key" in err
    (directory,) = (tmp_path / "out" / "wandb").glob("offline-run-*")
    assert f"wandb sync {directory}" in err
    assert len(rows(tmp_path / "out")) == 6
    logged = TransactionLog(next(directory.glob("*.wandb"))).read()
    assert [row.values["loss"] for row in logged if isinstance(row, LoggedRow) if "loss" in row.values] == [
        1.0 / (step + 1) for step in range(5)
    ]


UNREACHABLE = """
import sys, wandb
from tracker_client import Tracker, WandbBackend
tracker = Tracker([
    WandbBackend("p", outdir="out", id="mine", settings=wandb.Settings(init_timeout=3)),
])
tracker.log({"loss": 1.0}, step=3)
tracker.finish()
"""


def test_where_no_server_answers_wandb_records_offline_under_another_id(tmp_path):
    _, err = run(UNREACHABLE, tmp_path, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="0" * 40)
    (directory,) = (tmp_path / "out" / "wandb").glob("offline-run-*-mine-offline")
    assert f"wandb sync --id mine {directory}" in err
    logged = TransactionLog(next(directory.glob("*.wandb"))).read()
    (row,) = (one for one in logged if isinstance(one, LoggedRow) if "loss" in one.values)
    assert (row.values["loss"], row.values["step"]) == (1.0, 3)


# A rank of a launch: it names no rank, and finds its own.
DETECTED = """
import sys
from tracker_client import CSVBackend, MLflowBackend, Tracker, WandbBackend
tracker = Tracker([
    WandbBackend("detected", outdir="out"), MLflowBackend("detected", None, "out", None), CSVBackend("out"),
    CSVBackend("given", None),
])
tracker.log({"loss": 1.0}, step=3)
print([getattr(one, "run", None) is not None for one in tracker._backends])
tracker.finish()
"""


def test_constructors_without_a_rank_find_it_and_rank_0_alone_records(alone, tmp_path):
    store = f"sqlite:///{alone[0]}/mlflow.db"
    launch = {"WORLD_SIZE": "2", "WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": store}
    for rank, active in (("1", False), ("0", True)):
        out, _ = run(DETECTED, tmp_path, **launch, RANK=rank, LOCAL_RANK=rank)
        assert out.strip() == str([active, active, False, False])
        assert (tmp_path / "out").exists() is active
    assert [len(rows(tmp_path / name)) for name in ("out", "given")] == [1, 1]
    assert len(list((tmp_path / "out" / "wandb").glob("offline-run-*"))) == 1
    client = MlflowClient(store)
    (experiment,) = (one for one in client.search_experiments() if one.name == "detected")
    assert len(client.search_runs([experiment.experiment_id])) == 1


# A rank of a launch, which has one run by ``setup_tracker`` and then one of backends that it makes itself.
SERVED = """
import json, os, sys
import tracker_client
from tracker_client import CSVBackend, MLflowBackend, Tracker, WandbBackend
rank = int(os.environ["RANK"])


def of_names():
    return tracker_client.setup_tracker(
        "served", "csv,wandb,mlflow", {"lr": 0.1}, "of_names", endpoint="inprocess", name="online",
    )


def of_backends():
    given = ("made", {"lr": 0.1}, "of_backends", rank)
    wandb, mlflow = WandbBackend(*given, name="online"), MLflowBackend(*given, run_name="online")
    return Tracker([wandb, mlflow, CSVBackend("of_backends", rank)])


told = {}
for begin in (of_names, of_backends):
    tracker = begin()
    for step in range(6):
        tracker.log({"loss": 1.0 / (step + 1), "rank": rank}, step=10 * step)
    tracker.log_config({"late": True})
    wandb, mlflow = tracker.get_backend("wandb"), tracker.get_backend("mlflow")
    told[begin.__name__] = {
        "wandb": tracker.wandb_run and [tracker.wandb_run.id, tracker.wandb_run.url, wandb.run_url],
        "mlflow": tracker.mlflow_run and [tracker.mlflow_run.info.run_id, mlflow.run_url],
    }
    tracker.finish()
open(sys.argv[1], "w").write(json.dumps(told))
"""
WAYS = ("of_names", "of_backends")


@pytest.fixture(scope="module")
def served(tmp_path_factory, server):
    """Four ranks on a W&B server and an MLflow server: the first, the directory, and what each was told."""
    home = tmp_path_factory.mktemp("served")
    with WandbStub() as stub:
        variables = environment(home, **stub.environment, MLFLOW_TRACKING_URI=server.uri, WORLD_SIZE="4")
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", SERVED, f"told{rank}.json"], cwd=home,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                env={**variables, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(4)
        ]  # fmt: skip
        for rank in ranks:
            _, err = rank.communicate(timeout=240)
            assert rank.returncode == 0, err
    return stub, home, [json.loads((home / f"told{rank}.json").read_text()) for rank in range(4)]


@pytest.mark.parametrize("way", WAYS)
def test_an_online_wandb_run_has_each_row_at_its_step_and_is_finished(served, way):
    stub, _, told = served
    name, url, run_url = told[0][way]["wandb"]
    run = stub.runs[name]
    assert run.exit_code == 0
    assert [(row["step"], row["_step"], row["loss"], row["rank"]) for row in run.rows] == [
        (10 * step, 10 * step, 1.0 / (step + 1), 0) for step in range(6)
    ]
    assert run.merged("displayName") == "online"
    assert (run.config["lr"], run.config["late"]) == (0.1, True)
    assert url == run_url == f"{stub.url}/{run.entity}/{run.project}/runs/{name}"


@pytest.mark.parametrize("way", WAYS)
def test_a_run_on_an_mlflow_server_has_each_point_at_its_step_and_is_finished(served, server, way):
    _, _, told = served
    run_id, run_url = told[0][way]["mlflow"]
    client = MlflowClient(server.uri)
    run = client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "online")
    for name, expected in (("loss", [1.0 / (step + 1) for step in range(6)]), ("rank", [0.0] * 6)):
        points = client.get_metric_history(run_id, name)
        assert [(point.step, point.value) for point in points] == [
            (10 * step, value) for step, value in enumerate(expected)
        ]
    assert (run.data.params["config.lr"], run.data.params["late"]) == ("0.1", "True")
    assert run_url == f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{run_id}"


@pytest.mark.parametrize("way", WAYS)
def test_only_the_first_rank_has_runs_and_writes(served, server, way):
    stub, home, told = served
    assert [one[way] for one in told[1:]] == [{"wandb": None, "mlflow": None}] * 3
    assert set(stub.runs) == {told[0][one]["wandb"][0] for one in WAYS}
    assert [(row["step"], row["rank"]) for row in rows(home / way)] == [
        (str(10 * step), "0") for step in range(6)
    ]
    client = MlflowClient(server.uri)
    run_id, _ = told[0][way]["mlflow"]
    runs = client.search_runs([client.get_run(run_id).info.experiment_id])
    assert [run.info.run_id for run in runs] == [run_id]


# The run is the script's own: begun before the tracker, and by its own rules.
OWN_RUN = """
import wandb
from tracker_client import Tracker, WandbBackend, setup_tracker
run = wandb.init(project="own", id="mine", dir="out", config={"given": 1})
tracker = Tracker([WandbBackend("p", {"lr": 0.1})])
assert tracker.wandb_run is run is wandb.run
wandb.log({"timeit/f": 2.0}, commit=False)
tracker.log({"loss": 1.0}, step=3)
tracker.finish()
assert wandb.run is None
"""


def test_a_run_that_the_script_opened_itself_is_the_one_that_the_backend_records_to(tmp_path):
    (tmp_path / "out").mkdir()
    run(OWN_RUN, tmp_path, WANDB_MODE="offline")
    (path,) = tmp_path.rglob("run-*.wandb")
    assert path.name == "run-mine.wandb"
    logged = list(TransactionLog(path).read())
    found = {
        name: (one.step, value)
        for one in logged
        if isinstance(one, LoggedRow)
        for name, value in one.values.items()
    }
    assert (found["timeit/f"], found["loss"], found["step"]) == ((0, 2.0), (3, 1.0), (3, 3))
    configs = {
        name: value for one in logged if isinstance(one, LoggedConfig) for name, value in one.values.items()
    }
    assert (configs["given"], configs["lr"]) == (1, 0.1)
