"""What an artifact of a directory leaves out: the product's own files, and none of the script's."""

import json
from pathlib import Path

import pytest

from tracker_client.media.artifacts import Directory, artifact_file
from tracker_client.staging.sources import SourceUnusable
from tracker_client.values.refusals import Refusals

STATE = ("journal.sqlite3", "token", "tls-key.pem", "contents/ab/abc", "owner.json")


def make(base: Path, *files: str) -> None:
    for file in files:
        path = base / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)


def claim(directory: Path, *files: str) -> None:
    """Write files of a run, with its manifest."""
    make(directory, *files)
    lines = [{"run_id": "a"}, {"files": list(files)}]
    (directory / ".tracker-run").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def taken(directory: Path) -> set[str]:
    return {path for path, _ in Directory(str(directory), "out", Refusals()).files()}


@pytest.fixture
def outdir(tmp_path: Path) -> Path:
    """An output directory with all that a daemon and its backends write, and the script's files between."""
    base = tmp_path / "out"
    claim(base, "metrics.csv", "config.json", "images/x.1.2.png", "artifacts/model/w.bin", "preds.csv")
    make(base / ".tracker", *STATE)
    make(
        base, ".tracker-run.lock", ".tracker-csv-a.lock", ".tracker-contents-csv-1/ab/abc", ".tracker-w.begun"
    )
    make(base, "mlflow.db", "mlflow.db-wal", "mlflow.db-shm", ".mlflow.db.new", "mlartifacts/1/r/artifacts/y")
    make(base, "wandb/offline-run-20260101_000000-a/run-a.wandb", "wandb/latest-run/x", "wandb/debug.log")
    claim(base / "runs/20260101-000000-old", "metrics.csv", "artifacts/model/w.bin")
    (base / "runs/latest").symlink_to("20260101-000000-old")
    return base


OURS_THAT_ARE_TAKEN = {"metrics.csv", "config.json", "images/x.1.2.png", "preds.csv"}
THEIRS = {
    "model.pt", "artifacts/mine.txt", "artifacts/model/mine.bin", "runs/events.out.tfevents",
    "images/cat.png",
    "runs/20260101-000000-old/ckpt.pt", "src/wandb/util.py", "mlflow.py", "nested/mlartifacts/readme",
    ".trackerrc", "metrics/mlflow_db",
}  # fmt: skip


def test_the_output_directory_is_taken_without_what_is_not_this_runs_record(outdir: Path) -> None:
    make(outdir, *THEIRS)
    assert taken(outdir) == OURS_THAT_ARE_TAKEN | THEIRS


def test_it_is_the_same_by_a_link_and_from_a_directory_above(outdir: Path) -> None:
    make(outdir, *THEIRS)
    (outdir.parent / "link").symlink_to("out")
    assert taken(outdir.parent / "link") == OURS_THAT_ARE_TAKEN | THEIRS
    assert taken(outdir.parent) == {f"out/{file}" for file in THEIRS}


def test_the_runs_artifacts_are_not_taken_into_themselves(outdir: Path) -> None:
    make(outdir, "artifacts/mine.txt")
    assert taken(outdir / "artifacts") == {"mine.txt"}
    assert taken(outdir / "images") == {"x.1.2.png"}


def test_runs_below_tracker_runs_are_not_taken_along_with_the_working_directory(tmp_path: Path) -> None:
    base = tmp_path / "tracker-runs"
    claim(base / "20260101-000000-a", "metrics.csv", "config.json")
    make(base / ".tracker", *STATE)
    make(base, "mlflow.db", "20260101-000000-a/ckpt.pt")
    (base / "latest").symlink_to("20260101-000000-a")
    make(tmp_path, "train.py")
    assert taken(tmp_path) == {"train.py", "tracker-runs/20260101-000000-a/ckpt.pt"}
    assert taken(base / "latest") == {"metrics.csv", "config.json", "ckpt.pt"}


def test_a_state_directory_of_any_name_is_never_taken(tmp_path: Path) -> None:
    make(tmp_path / "state", *STATE)
    make(tmp_path, "x")
    assert taken(tmp_path) == {"x"}
    for location in (tmp_path / "state", tmp_path / "state/contents"):
        with pytest.raises(SourceUnusable, match="a daemon's own"):
            taken(location)
    with pytest.raises(SourceUnusable, match="with its token"):
        artifact_file(str(tmp_path / "state/token"), keep_open=False)


def test_a_directory_of_the_product_alone_is_no_artifact(tmp_path: Path) -> None:
    claim(tmp_path, "artifacts/a/b")
    with pytest.raises(SourceUnusable, match="has no files"):
        list(Directory(str(tmp_path), "out", Refusals()).sources())
