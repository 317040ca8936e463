"""What W&B's users log beside numbers, given to ``log()``: through a real daemon to files and to W&B."""

import csv

import pytest

from tests.support.ranks import Ranks
from tracker_daemon.backends.wandb.transaction_log import LoggedRow, TransactionLog

pytest.importorskip("wandb")
pytest.importorskip("PIL")

SCRIPT = """
import numpy as np
import wandb
from tracker_client import setup_tracker

with setup_tracker("rich") as tracker:
    tracker.log({"loss": 1.0}, step=1)
    tracker.log({
        "eval": {"loss": 0.5, "image": wandb.Image(np.zeros((4, 5, 3), np.uint8), caption="black")},
        "weights": wandb.Histogram(np_histogram=np.histogram([0.0, 1.0, 1.0, 4.0], bins=4)),
        "answers": wandb.Table(columns=["question", "score"], data=[["x", 1], ["y", 2]]),
        "pixels": np.zeros((4, 4)),
    }, step=2)
    tracker.finish(wait="delivered", timeout=120)
    print(tracker.status().refused_values)
"""


def test_nested_dicts_histograms_images_and_tables_are_recorded_at_the_step_of_their_row(
    make_daemon, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    daemon = make_daemon("--backends", "csv,wandb")
    (refused,) = Ranks(daemon).run(SCRIPT, 1)
    assert daemon.stop() == 0, daemon.log()
    assert refused == "1\n"
    assert daemon.rows()[1] == {"step": "2", "loss": "", "eval.loss": "0.5"}
    (image,) = (path for path in (daemon.outdir / "images").rglob("*") if path.suffix == ".png")
    assert image.read_bytes().startswith(b"\x89PNG")
    with (daemon.outdir / "answers.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["question", "score"], ["x", "1"], ["y", "2"]]
    (log,) = daemon.outdir.glob("wandb/offline-run-*/run-*.wandb")
    rows = [row.values for row in TransactionLog(log).read() if isinstance(row, LoggedRow)]
    (histogram,) = [row for row in rows if "weights" in row]
    assert histogram["step"] == 2
    assert histogram["weights"] == {"_type": "histogram", "values": [1, 2, 0, 1], "bins": [0, 1, 2, 3, 4]}
    assert [row["eval.loss"] for row in rows if "eval.loss" in row] == [0.5]


VALUES = """
import numpy as np
import wandb
from tracker_client import setup_tracker

black = np.zeros((4, 5, 3), np.uint8)
with setup_tracker("values", config={"lr": 0.1, "a.b": 1, "a": {"b": 2}}) as tracker:
    tracker.log({"epoch": 3, "done": True}, step=0)
    tracker.log({"version": "1.5", "phase": "warm-up", "loss%": 0.5, "bad": None, "list": [1, 2]}, step=1)
    tracker.log({"many": [wandb.Image(black, caption="one"), wandb.Image(black + 9)]}, step=2)
    tracker.log_image("stack", np.zeros((3, 4, 5, 3)), step=3)
    when = np.datetime64("2026-01-02", "ns")
    rows = [{"name": "a", "image": wandb.Image(black, caption="c")}, {"name": "b", "when": when}]
    tracker.log_table("Report", data=rows, step=4)
    tracker.log_table("my table", ["x", "y"], [[1], [1, 2, 3]], step=4)
    tracker.log_config({"late": {"x": 5}})
    tracker.finish(wait="delivered", timeout=120)
    print(tracker.status().refused_values)
"""


def test_texts_tables_with_images_stacks_and_later_configurations_are_right_in_every_store(
    make_daemon, monkeypatch, tmp_path, empty_database
):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    daemon = make_daemon("--backends", "csv,mlflow,wandb", mlflow_store=empty_database)
    (refused,) = Ranks(daemon).run(VALUES, 1)
    assert daemon.stop() == 0, daemon.log()
    assert refused == "2\n"
    first = daemon.rows()[0]
    assert (first["epoch"], first["done"]) == ("3", "True")
    assert_values_in_files(daemon.outdir)
    client = mlflow.MlflowClient(f"sqlite:///{daemon.outdir / 'mlflow.db'}")
    (experiment,) = (one for one in client.search_experiments() if one.name == "values")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["version"] == 1.5
    assert run.data.tags["phase"] == "warm-up"
    params = {name: value for name, value in run.data.params.items() if not name.startswith("tracker.")}
    (hashed,) = (name for name in params if name.startswith("config.a.b-"))
    assert params == {"config.lr": "0.1", "config.a.b": "2", hashed: "1", "late.x": "5"}
    copy = tmp_path / "copy"
    copy.mkdir()
    client.download_artifacts(run.info.run_id, "", str(copy))
    with (copy / "tables" / "Report.csv").open(newline="") as file:
        shown = next(csv.DictReader(file))["image"]
    assert (copy / shown).read_bytes().startswith(b"\x89PNG")
    (log,) = daemon.outdir.glob("wandb/offline-run-*/run-*.wandb")
    rows = {
        key: value
        for row in TransactionLog(log).read()
        if isinstance(row, LoggedRow)
        for key, value in row.values.items()
    }
    assert [(rows[name], type(rows[name])) for name in ("epoch", "done")] == [(3, int), (True, bool)]
    assert rows["version"] == "1.5"
    assert (rows["many"]["_type"], rows["many"]["captions"]) == ("images/separated", ["one", None])
    assert len(rows["stack"]["filenames"]) == 3
    assert (rows["Report"]["ncols"], rows["Report"]["nrows"]) == (3, 2)


def assert_values_in_files(outdir):
    with (outdir / "Report.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["name"], first["when"], second["image"]) == ("a", "", "")
    assert second["when"] == "2026-01-02T00:00:00.000000000"
    assert (outdir / first["image"]).read_bytes().startswith(b"\x89PNG")
    with (outdir / "my table.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["x", "y", "column 3"], ["1", "", ""], ["1", "2", "3"]]
    images = sorted(path.name for path in (outdir / "images").iterdir() if path.suffix == ".png")
    assert [name.split(".")[:2] for name in images] == [
        ["Report", "4"], ["many", "2"], ["many", "2"], ["stack", "3"], ["stack", "3"], ["stack", "3"],
    ]  # fmt: skip
