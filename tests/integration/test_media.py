"""Tables, images and artifacts from four real ranks into every backend, and what happens on their way."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from tests.support.ranks import Ranks, finish
from tests.support.waiting import wait_until
from tracker_daemon.backends.wandb.transaction_log import TransactionLog

MEDIA = """
import os, pathlib
import numpy as np
from tracker_client import setup_tracker

rank, home = int(os.environ["RANK"]), pathlib.Path(os.environ["HOME_OF_TEST"]) / os.environ["RANK"]
(home / "model" / "layers").mkdir(parents=True)
(home / "model" / "config.json").write_text('{"rank": %d}' % rank)
(home / "model" / "layers" / "0.bin").write_bytes(bytes([rank]) * 2_000_000)
with setup_tracker("media") as tracker:
    for step in range(5):
        tracker.log({"loss": step + rank}, step=step)
    tracker.log_table("results", ["name", "score"], [["a", 0.5 + rank], ["b", None]])
    tracker.log_table("metrics", ["x"], [[rank]])
    tracker.log_image("eval/sample", np.full((4, 6, 3), 10 * rank, "uint8"), caption=f"from {rank}")
    tracker.log_image("broken", np.full((4, 6), 7.5))
    tracker.log_artifacts({"model": home / "model", "missing": home / "nothing"})
    tracker.log({"loss": 9.0}, step=9)
    tracker.finish(wait="delivered", timeout=90)
    print(tracker.status().state)
"""

HELD = """
import hashlib, os, pathlib, sys, time
from tracker_client import setup_tracker
from tracker_client.staging import sources

home, half = pathlib.Path(os.environ["HOME_OF_TEST"]), 20_000_000
whole, calls = sources.FileSource.chunks, []

def held(self, offset):
    calls.append(offset)
    for chunk in whole(self, offset):
        yield chunk
        offset += len(chunk)
        if len(calls) > 1 and offset > half:  # the first call computes the digest
            print("sending from", calls[-1], flush=True)
            while not (home / "go").exists():
                time.sleep(0.02)
            half_again = offset

sources.FileSource.chunks = held
tracker = setup_tracker("held")
tracker.log_artifacts({"big": home / "big.bin"})
for step in range(50):
    tracker.log({"loss": float(step)}, step=step)
tracker.finish(wait="delivered", timeout=90)
print("ended", tracker.status().state, max(calls), flush=True)
"""


def table(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def tree(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


@pytest.fixture
def own_environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("WANDB_", "WB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HOME_OF_TEST", str(tmp_path))


@pytest.mark.long
def test_tables_images_and_artifacts_of_four_ranks_are_in_every_backend(
    make_daemon, own_environment, tmp_path
):
    pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    daemon = make_daemon("--backends", "csv,mlflow,wandb", "--item-ranks", "2")
    ranks = Ranks(daemon)
    outputs = ranks.run(MEDIA, 4, WANDB_MODE="offline")
    assert [output.split() for output in outputs] == [["finished"]] * 4
    wait_until(lambda: daemon.status()["daemon"]["contents"]["count"] == 0, "contents to be given up")
    (run,) = daemon.status()["runs"]
    assert daemon.stop() == 0
    lanes = {backend["name"]: backend for backend in run["backends"]}
    for name in ("csv:files", "mlflow:files"):
        # Four items from rank 0 and as many from rank 2: "broken" is none.
        assert (lanes[name]["delivered"], lanes[name]["pending"], lanes[name]["set_aside"]) == (8, 0, 0)
    assert run["books"]["items"] == 8
    assert_files(daemon.outdir, daemon.outdir / "artifacts", tables=daemon.outdir)
    assert_mlflow(daemon.outdir)
    assert_wandb(daemon.outdir)


def assert_files(outdir, artifacts, tables):
    assert table(tables / "results.csv") == [["name", "score"], ["a", "0.5"], ["b", ""]]
    (of_rank_2,) = tables.glob("results_rank2-*.csv")
    assert table(of_rank_2)[1] == ["a", "2.5"]
    (taken,) = (path for path in tables.glob("metrics-*.csv"))
    assert table(taken) == [["x"], ["0"]]
    images = tree(outdir / "images")
    assert len(images) == 4
    assert sorted(text.decode() for name, text in images.items() if name.endswith(".txt")) == [
        "from 0",
        "from 2",
    ]
    assert all(data.startswith(b"\x89PNG") for name, data in images.items() if name.endswith(".png"))
    model = tree(artifacts / "model")
    assert model == {"config.json": b'{"rank": 0}', "layers/0.bin": bytes(2_000_000)}
    (of_rank_2,) = artifacts.glob("model_rank2-*")
    assert tree(of_rank_2)["layers/0.bin"] == bytes([2]) * 2_000_000


def assert_mlflow(outdir):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{outdir / 'mlflow.db'}")
    (experiment,) = (e for e in client.search_experiments() if e.name == "media")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    got = outdir / "downloaded"
    got.mkdir()
    client.download_artifacts(run.info.run_id, "", str(got))
    assert_files(got, got, tables=got / "tables")


def assert_wandb(outdir):
    from tracker_daemon.backends.wandb.transaction_log import LoggedRow, TransactionLog

    (log,) = outdir.glob("wandb/offline-run-*/run-*.wandb")
    rows = [row for row in TransactionLog(log).read() if isinstance(row, LoggedRow)]
    assert [row.step for row in rows] == sorted({row.step for row in rows})
    media = {key: value for row in rows for key, value in row.values.items() if isinstance(value, dict)}
    assert sorted(media) == [
        "eval/sample", "eval/sample/rank2", "metrics", "metrics/rank2", "results", "results/rank2",
    ]  # fmt: skip
    assert media["eval/sample/rank2"]["caption"] == "from 2"
    for value in media.values():
        assert (log.parent / "files" / value["path"]).exists()
    results = json.loads((log.parent / "files" / media["results"]["path"]).read_bytes())
    assert results["data"] == [["a", 0.5], ["b", None]]
    assert artifacts_in(log) == {"model", "model_rank2"}


def artifacts_in(log):
    """The names of the artifacts of a run's log, without the hash that tells unsafe names apart."""
    from wandb.proto import wandb_internal_pb2 as wandb_pb

    from tracker_daemon.backends.wandb.transaction_log import TransactionLog

    records = map(wandb_pb.Record.FromString, TransactionLog(log).payloads())
    artifacts = [record.artifact for record in records if record.WhichOneof("record_type") == "artifact"]
    return {one.name.rpartition("-")[0] or one.name for one in artifacts if one.type == "artifact"}


def test_a_file_delays_no_metric_and_its_upload_outlives_the_daemon(make_daemon, tmp_path):
    daemon = make_daemon("--backends", "csv")
    data = os.urandom(1_000_000) * 40
    (tmp_path / "big.bin").write_bytes(data)
    ranks = Ranks(daemon)
    (rank,) = ranks.start(HELD, [0], 1, HOME_OF_TEST=str(tmp_path))
    assert rank.stdout.readline().split()[:2] == ["sending", "from"]
    # The upload is held in its middle, and every metric is on its way and in the file all the same.
    metrics = daemon.outdir / "metrics.csv"
    wait_until(lambda: metrics.exists() and len(daemon.rows()) == 50, "the metrics to be there")
    partial = next((daemon.state_dir / "contents" / "partial").iterdir())
    wait_until(lambda: partial.stat().st_size > 10_000_000, "half of the file to have come")
    daemon.kill()
    daemon.start()
    (tmp_path / "go").touch()
    out = finish(rank)
    _, state, resumed_from = out.splitlines()[-1].split()
    assert state == "finished"
    assert int(resumed_from) > 10_000_000  # and not from the beginning
    assert (daemon.outdir / "artifacts" / "big" / "big.bin").read_bytes() == data
    assert daemon.stop() == 0


OUTPUTS = """
import pathlib
from tracker_client import setup_tracker
options = {"outdir": "out", "backends": "csv,mlflow,wandb", "wandb": {"mode": "offline"}}
for name in ("first", "second"):
    tracker = setup_tracker(name, **options)
    tracker.log({"loss": 1.0}, step=0)
    tracker.log_artifacts({"script": "train.py"})
    tracker.finish(wait="files" if name == "second" else "delivered", timeout=90)
    pathlib.Path("out/model.txt").write_text(name)
tracker = setup_tracker(run_id=tracker.run_id, **options)
tracker.log_artifacts({"outputs": "out"})
tracker.finish(wait="delivered", timeout=90)
"""


def files_below(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_the_output_directory_as_an_artifact_has_nothing_of_the_product_but_the_run_s_record(
    tmp_path, empty_database
):
    """With the daemon's state, an earlier run, and the stores of MLflow and W&B in it."""
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(empty_database, out / "mlflow.db")
    (tmp_path / "train.py").write_text(OUTPUTS)
    environ = {name: text for name, text in os.environ.items() if not name.startswith("TRACKER_")}
    subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, check=True, timeout=300,
        env=environ | {"TRACKER_IDLE_TIMEOUT_S": "1"},
    )  # fmt: skip
    assert {".tracker", "runs", "wandb", "mlartifacts"} <= {path.name for path in out.iterdir()}
    expected = {"metrics.csv", "model.txt"}
    assert files_below(out / "artifacts" / "outputs") == expected
    (in_mlflow,) = (out / "mlartifacts").glob("*/artifacts/outputs")
    assert files_below(in_mlflow) == expected
    assert wandb_artifacts(out)["outputs"] == expected


def wandb_artifacts(outdir: Path) -> dict[str, set[str]]:
    """The files of each artifact that the offline runs have, by its name."""
    found = {}
    for log in outdir.glob("wandb/*run-*/run-*.wandb"):
        for payload in TransactionLog(log).payloads():
            record = Record.FromString(payload)
            kind = record.WhichOneof("record_type")
            artifact = record.artifact if kind == "artifact" else record.request.log_artifact.artifact
            if artifact.name:
                found[artifact.name] = {entry.path for entry in artifact.manifest.contents}
    return found
