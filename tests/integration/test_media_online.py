"""Tables, images and artifacts of four real ranks, as a real MLflow server and a W&B server have them."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from tests.support.ranks import Ranks, finish
from tests.support.waiting import wait_until

pytest.importorskip("mlflow")
pytest.importorskip("wandb")
from mlflow import MlflowClient

from tests.support.servers.mlflow_server import Gateway
from tests.support.servers.wandb_stub import StubArtifact, WandbStub

pytestmark = pytest.mark.long

MEDIA = """
import os, pathlib
import numpy as np
from tracker_client import setup_tracker

rank, home = int(os.environ["RANK"]), pathlib.Path(os.environ["HOME"]) / os.environ["RANK"]
(home / "model" / "layers").mkdir(parents=True)
(home / "model" / "config.json").write_text('{"rank": %d}' % rank)
(home / "model" / "layers" / "0.bin").write_bytes(bytes([rank]) * 300_000)
with setup_tracker("media-online") as tracker:
    for step in range(5):
        tracker.log({"loss": step + rank}, step=step)
    tracker.log_table("results", ["name", "score"], [["a", 0.5 + rank], ["b", None]])
    tracker.log_image("eval/sample", np.full((4, 6, 3), 10 * rank, "uint8"), caption=f"from {rank}")
    tracker.log_artifacts({"model": home / "model"})
    if rank == 0:
        tracker.log_artifacts({"taken": home / "model" / "config.json"})
    tracker.finish(wait="delivered", timeout=90)
    print(tracker.status().state)
"""

RANKS = 4


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """A W&B server that the daemon's environment names, with a key, and nothing else of the environment's."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "WB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with WandbStub() as stub:
        for name, value in stub.environment.items():
            monkeypatch.setenv(name, value)
        yield stub


def named(stem, rank):
    return stem if rank == 0 else f"{stem}_rank{rank}"


def test_tables_images_and_artifacts_of_four_ranks_reach_an_mlflow_server_and_wandb(
    make_daemon, stub, server, monkeypatch, tmp_path
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    # W&B lets a name in a project have one type: this artifact is refused there, and the rest goes on.
    stub.artifacts.append(StubArtifact(0, "model", "taken", "its digest", {}, committed=True))
    daemon = make_daemon("--backends", "mlflow,wandb", "--item-ranks", "all")
    outputs = Ranks(daemon).run(MEDIA, RANKS)
    assert [output.split() for output in outputs] == [["finished"]] * RANKS
    assert daemon.stop() == 0, daemon.log()
    (run,) = daemon.last_status()["runs"]
    assert {lane["name"]: (lane["pending"], lane["set_aside"]) for lane in run["backends"]} == {
        "mlflow": (0, 0), "mlflow:files": (0, 0), "wandb": (0, 0),
    }  # fmt: skip
    assert_mlflow(MlflowClient(server.uri, server.uri), tmp_path / "downloaded")
    assert "already exists with type 'model'" in daemon.log()
    (received,) = stub.runs.values()
    assert received.exit_code == 0
    assert_wandb_media(received)
    assert_wandb_artifacts(stub)


def assert_mlflow(client, directory):
    experiment = client.get_experiment_by_name("media-online")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    directory.mkdir()
    client.download_artifacts(run.info.run_id, "", str(directory))
    captions = {path.read_text(): path.with_suffix(".png") for path in directory.glob("images/*.txt")}
    assert sorted(captions) == [f"from {rank}" for rank in range(RANKS)]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in captions.values())
    assert (directory / "taken" / "config.json").exists()
    for rank in range(RANKS):
        (table,) = of_rank(directory / "tables", "results", rank, ".csv")
        assert list(csv.reader(table.open(newline=""))) == [
            ["name", "score"],
            ["a", str(0.5 + rank)],
            ["b", ""],
        ]
        (model,) = of_rank(directory, "model", rank)
        assert json.loads((model / "config.json").read_text()) == {"rank": rank}
        assert (model / "layers" / "0.bin").read_bytes() == bytes([rank]) * 300_000


def of_rank(directory, stem, rank, suffix=""):
    """What is there of that rank; the names of the others end with a hash."""
    return list(directory.glob(named(stem, rank) + ("-*" if rank else "") + suffix))


def assert_wandb_media(run):
    """Each value once in the history, and the very file that it names among what was uploaded."""
    media = [(key, value) for row in run.rows for key, value in row.items() if isinstance(value, dict)]
    media = {key: value for key, value in media if "_type" in value}
    keys = [
        f"{key}/rank{rank}" if rank else key for key in ("eval/sample", "results") for rank in range(RANKS)
    ]
    assert sorted(media) == sorted(keys)
    assert sum(key in row for row in run.rows for key in keys) == len(keys)
    for rank in range(RANKS):
        suffix = f"/rank{rank}" if rank else ""
        image, table = media[f"eval/sample{suffix}"], media[f"results{suffix}"]
        assert (image["_type"], image["caption"]) == ("image-file", f"from {rank}")
        assert run.uploads[image["path"]].startswith(b"\x89PNG")
        assert json.loads(run.uploads[table["path"]])["data"] == [["a", 0.5 + rank], ["b", None]]


def assert_wandb_artifacts(stub):
    """Each rank's, committed once with all its files; the stub takes none that differs from its MD5."""
    ours = [one for one in stub.artifacts if one.type == "artifact"]
    assert len(ours) == RANKS
    by_rank = {json.loads(one.files["config.json"])["rank"]: one for one in ours}
    for rank in range(RANKS):
        artifact = by_rank[rank]
        assert artifact.committed
        assert artifact.name.startswith(named("model", rank))
        assert artifact.files["layers/0.bin"] == bytes([rank]) * 300_000
        assert sorted(artifact.files) == ["config.json", "layers/0.bin"]


HELD = """
import os, pathlib, sys
from tracker_client import setup_tracker

with setup_tracker("held-lane") as tracker:
    tracker.log({"loss": 0.0}, step=0)
    sys.stdin.readline()
    if os.environ["RANK"] == "0":
        tracker.log_artifacts({"big": pathlib.Path(os.environ["HOME"]) / "big.bin"})
    sys.stdin.readline()
    for step in range(1, 51):
        tracker.log({"loss": float(step)}, step=step)
    tracker.finish(wait="delivered", timeout=90)
    print(tracker.status().state)
"""


def test_metrics_are_delivered_while_a_large_artifact_is_held_by_every_backend(
    make_daemon, stub, server, monkeypatch, tmp_path
):
    data = os.urandom(8_000_000)
    (tmp_path / "big.bin").write_bytes(data)
    held, go = threading.Event(), threading.Event()

    def hold_large(headers):
        if int(headers.get("content-length", 0)) > len(data) // 2:
            held.set()
            go.wait()

    with Gateway(server, hold_large) as gateway:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", gateway.uri)
        daemon = make_daemon("--backends", "csv,mlflow")
        client = MlflowClient(server.uri, server.uri)
        started = Ranks(daemon).start(HELD, range(2), 2)
        wait_until(lambda: shown_by_both(daemon, client, 1), "the run to have begun")
        directory = daemon.outdir / "artifacts" / "big"
        directory.mkdir(parents=True)
        os.mkfifo(directory / ".big.bin.new")  # where the copy is written; nobody reads it
        tell(started)
        assert held.wait(60)
        tell(started)
        wait_until(lambda: shown_by_both(daemon, client, 51), "the metrics to be delivered")
        lanes = lanes_of(daemon)
        assert (lanes["csv:files"]["pending"], lanes["mlflow:files"]["pending"]) == (1, 1)
        assert not go.is_set()
        go.set()
        with (directory / ".big.bin.new").open("rb") as fifo:
            shutil.copyfileobj(fifo, io.BytesIO())
        assert [finish(process) for process in started] == ["finished\n"] * 2
        assert (directory / "big.bin").read_bytes() == data
        assert (
            Path(client.download_artifacts(run_of(client), "big", str(tmp_path)), "big.bin").read_bytes()
            == data
        )
        assert daemon.stop() == 0, daemon.log()


def tell(started):
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()


def run_of(client):
    experiment = client.get_experiment_by_name("held-lane")
    (run,) = client.search_runs([experiment.experiment_id])
    return run.info.run_id


def lanes_of(daemon):
    (run,) = daemon.status()["runs"]
    return {lane["name"]: lane for lane in run["backends"]}


def shown_by_both(daemon, client, rows):
    """Whether all these rows are in the CSV file, and what both ranks made of each is at the server."""
    if not (daemon.outdir / "metrics.csv").exists() or len(daemon.rows()) < rows:
        return False
    experiment = client.get_experiment_by_name("held-lane")
    if experiment is None or not client.search_runs([experiment.experiment_id]):
        return False
    return len(client.get_metric_history(run_of(client), "loss/mean")) == rows
