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
