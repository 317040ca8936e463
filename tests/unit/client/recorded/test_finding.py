"""Recorded runs: which are found below a directory, and which one a name means."""

from __future__ import annotations

import errno
import json
from datetime import datetime
from pathlib import Path

import pytest

import tracker_client
from tracker_client.errors import RunNotFound
from tracker_protocol.run_files import MANIFEST_FILE

NS = 1_000_000_000
FIELDS = {"project": "p", "writer": "daemon", "directory_id": "d"}


def record(directory: Path, run_id: str, name: str = "", at_s: int = 0) -> Path:
    """Make the directory of a run that began at ``at_s``."""
    directory.mkdir(parents=True, exist_ok=True)
    header = {
        "run_id": run_id,
        "name": directory.name,
        "project": "p",
        "writer": "daemon",
        "directory_id": "d",
    }
    story = {"run": {"name": name or run_id, "created_ns": (1 + at_s) * NS}}
    (directory / MANIFEST_FILE).write_text(f"{json.dumps(header)}\n{json.dumps(story)}\n")
    return directory


@pytest.fixture
def recorded(tmp_path):
    """Runs as they lie: in an output directory, moved below it, by name, and by project."""
    record(tmp_path / "out", "k1", "digits", 4)
    record(tmp_path / "out/runs/20260102-old", "k2", "digits", 1)
    record(tmp_path / "tracker-runs/20260103-train", "m1", "train", 2)
    record(tmp_path / "served/project/20260104-serve", "m2", "serve", 3)
    (tmp_path / "tracker-runs/latest").symlink_to("20260103-train", target_is_directory=True)
    return tmp_path


def test_all_runs_below_a_directory_are_found_once_the_newest_first(recorded):
    assert [run.run_id for run in tracker_client.runs(recorded)] == ["k1", "m2", "m1", "k2"]


def test_the_files_of_a_run_are_not_searched_for_runs(recorded):
    record(recorded / "out/artifacts/copied", "copy")
    record(recorded / ".hidden/run", "hidden")
    assert {run.run_id for run in tracker_client.runs(recorded)} == {"k1", "k2", "m1", "m2"}


@pytest.mark.parametrize(
    ("named", "run_id"),
    [
        ("latest", "k1"),
        ("m1", "m1"),
        ("serve", "m2"),
        ("20260104-serve", "m2"),
        ("tra", "m1"),
        ("20260102", "k2"),
    ],
)
def test_a_run_is_meant_by_its_id_its_name_a_beginning_or_latest(recorded, named, run_id):
    assert tracker_client.read(named, recorded).run_id == run_id


def test_a_run_is_meant_by_its_directory_and_by_the_link_to_it(recorded, monkeypatch):
    monkeypatch.chdir(recorded)
    for path in ("out", recorded / "out", Path("tracker-runs/latest"), "tracker-runs/20260103-train"):
        assert tracker_client.read(path).directory == (recorded / Path(path)).resolve()


def test_an_id_has_precedence_over_a_name_and_a_name_over_a_beginning(tmp_path):
    record(tmp_path / "a", "train", at_s=1)
    record(tmp_path / "b", "x1", "train")
    record(tmp_path / "c", "x2", "train2")
    assert tracker_client.read("train", tmp_path).run_id == "train"
    record(tmp_path / "a", "other", at_s=1)
    assert tracker_client.read("train", tmp_path).run_id == "x1"


def test_a_name_that_several_runs_have_lists_them(recorded):
    with pytest.raises(RunNotFound, match=r"2 runs match 'digits': k1 .* k2 .*; give an id or a directory"):
        tracker_client.read("digits", recorded)


def test_a_name_that_no_run_has_lists_those_that_there_are(recorded, tmp_path):
    with pytest.raises(RunNotFound, match=r"no run in .* matches 'nosuch'; there are k1 \(digits, .*"):
        tracker_client.read("nosuch", recorded)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunNotFound, match="there is no run in"):
        tracker_client.read("latest", tmp_path / "empty")
    with pytest.raises(RunNotFound, match="is no directory"):
        tracker_client.runs(tmp_path / "nowhere")


def test_a_run_without_a_known_beginning_comes_last(recorded):
    header = {"run_id": "bare", "name": "bare", **FIELDS}
    (recorded / "bare").mkdir()
    (recorded / "bare" / MANIFEST_FILE).write_text(json.dumps(header) + "\n")
    last = tracker_client.runs(recorded)[-1]
    assert (last.run_id, last.created, last.name) == ("bare", None, "bare")


def test_times_have_a_time_zone(recorded):
    created = tracker_client.read("m1", recorded).created
    assert created.tzinfo is not None
    assert created == datetime.fromtimestamp(3, tz=created.tzinfo)


@pytest.mark.parametrize("closed", ["a", "tracker-runs/20260103-train", "out"])
def test_what_the_user_may_not_read_hides_no_other_run(recorded, monkeypatch, closed):
    def opened(path, *arguments, **options):
        if path.is_relative_to(recorded / closed):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *arguments, **options)

    original = Path.open  # the superuser may read everything
    monkeypatch.setattr(Path, "open", opened)
    (recorded / "a").mkdir()
    (recorded / "a" / MANIFEST_FILE).touch()
    hidden = {"a": set(), "out": {"k1", "k2"}}.get(closed, {"m1"})
    assert {run.run_id for run in tracker_client.runs(recorded)} == {"k1", "k2", "m1", "m2"} - hidden
    with pytest.raises(PermissionError):
        tracker_client.runs(recorded / closed)
