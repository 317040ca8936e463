"""Tables, images and artifacts in a W&B run that is rebuilt, since its daemon was killed in the middle."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.ranks import Ranks, finish
from tests.support.waiting import wait_until

pytest.importorskip("wandb")
from wandb.proto import wandb_internal_pb2 as wandb_pb

from tracker_daemon.backends.wandb.transaction_log import LoggedRow, TransactionLog

pytestmark = pytest.mark.long

MEDIA = """
import os, pathlib, sys
import numpy as np
from tracker_client import setup_tracker

rank, home = int(os.environ["RANK"]), pathlib.Path(os.environ["HOME"]) / os.environ["RANK"]
home.mkdir()
with setup_tracker("restarted") as tracker:
    for part in range(3):
        tracker.log({"loss": float(part)}, step=part)
        tracker.log_image("sample", np.full((4 + part, 6, 3), rank, "uint8"), caption=f"{part} of {rank}")
        tracker.log_table("results", ["part", "rank"], [[part, rank], [None, "é"]])
        (home / f"{part}.bin").write_bytes(bytes([rank, part]) * 100_000)
        tracker.log_artifacts({f"weights{part}": home / f"{part}.bin"})
        print("logged", flush=True)
        sys.stdin.readline()
"""

RANKS, PARTS, ITEMS = 4, 3, 3


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("WANDB_", "WB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")


def test_what_ranks_logged_before_and_after_kills_of_the_daemon_is_in_the_offline_run_once(make_daemon):
    daemon = make_daemon("--backends", "wandb", "--item-ranks", "2")
    started = Ranks(daemon).start(MEDIA, range(RANKS), RANKS)
    # The first kill comes when all is delivered, the second while it is on its way.
    all_logged(started)
    wait_until(lambda: delivered(daemon, 2 * ITEMS), "the first part to be delivered")
    restart(daemon)
    go_on(started)
    all_logged(started)
    wait_until(lambda: daemon.status()["runs"][0]["books"]["items"] > 2 * ITEMS, "an item to be recorded")
    restart(daemon)
    go_on(started)
    all_logged(started)
    go_on(started)
    for process in started:
        finish(process)
    assert daemon.stop() == 0, daemon.log()
    (log,) = daemon.outdir.glob("wandb/*run-*/run-*.wandb")
    assert_media_once(log)
    assert artifact_files(log) == {
        f"weights{part}" + ("" if rank == 0 else f"_rank{rank}"): bytes([rank, part]) * 100_000
        for part in range(PARTS)
        for rank in (0, 2)
    }


def all_logged(started):
    for process in started:
        assert process.stdout.readline() == "logged\n"


def go_on(started):
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()


def restart(daemon):
    daemon.kill()
    daemon.start()


def delivered(daemon, items):
    """Whether all of ``items`` have come and are delivered; a run has no backends until its primary comes."""
    counts = [
        (run["books"]["items"], backend["pending"])
        for run in daemon.status()["runs"]
        for backend in run["backends"]
    ]
    return counts == [(items, 0)]


def assert_media_once(log):
    """Each image and table in one row, its file with the content that was logged."""
    import numpy as np
    from PIL import Image

    rows = [row for row in TransactionLog(log).read() if isinstance(row, LoggedRow)]
    assert [row.step for row in rows] == sorted({row.step for row in rows})
    media = [(key, value) for row in rows for key, value in row.values.items() if isinstance(value, dict)]
    images, tables = [], []
    for key, value in media:
        path = log.parent / "files" / value["path"]
        if value["_type"] == "image-file":
            pixels = np.asarray(Image.open(path))
            images.append((key, value["caption"], pixels.shape[0], sorted(set(pixels.ravel().tolist()))))
        else:
            tables.append((key, json.loads(path.read_bytes())["data"]))
    ranks = [(0, ""), (2, "/rank2")]
    assert sorted(images) == sorted(
        (f"sample{suffix}", f"{part} of {rank}", 4 + part, [rank])
        for part in range(PARTS)
        for rank, suffix in ranks
    )
    expected = [
        (f"results{suffix}", [[part, rank], [None, "é"]]) for part in range(PARTS) for rank, suffix in ranks
    ]
    assert sorted(tables, key=str) == sorted(expected, key=str)
    assert sum("loss" in row.values for row in rows) == PARTS


def artifact_files(log):
    """Content by the names of the artifacts, each of which is one record; without the hash of some names."""
    records = map(wandb_pb.Record.FromString, TransactionLog(log).payloads())
    logged = [one.artifact for one in records if one.WhichOneof("record_type") == "artifact"]
    logged = [one for one in logged if one.type == "artifact"]
    found = {}
    for artifact in logged:
        (content,) = artifact.manifest.contents
        found[artifact.name.rpartition("-")[0] or artifact.name] = Path(content.local_path).read_bytes()
    assert len(found) == len(logged)
    return found
