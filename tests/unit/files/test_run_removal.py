"""The removal of a run's files: what goes, what stays, and which runs are kept."""

from __future__ import annotations

import pytest

from tracker_daemon.errors import RunKept
from tracker_daemon.files.manifest import add_files
from tracker_daemon.files.run_directory import RunPlace, claim_directory, close_directory
from tracker_daemon.files.run_removal import remove_run
from tracker_protocol.run_files import LATEST_LINK, MANIFEST_FILE


@pytest.fixture
def closed(tmp_path):
    """A run that has ended, in ``runs``, with a metric file and an image."""
    base = tmp_path / "out"
    base.mkdir()
    (base / "metrics.csv").write_text("another program's\n")
    path = claim_directory(RunPlace(base, "r", "20260102-r")).path
    (path / "images").mkdir()
    for file in ("metrics.csv", "images/a.png"):
        (path / file).write_bytes(b"x")
    add_files(path, ["images/a.png"])
    close_directory(path, "r")
    return base, path


def test_the_run_s_files_its_directory_and_the_link_to_it_go(closed):
    base, path = closed
    assert (path.parent / LATEST_LINK).exists()
    assert remove_run(base, path, "r") == []
    assert list(path.parent.iterdir()) == []
    assert (base / "metrics.csv").exists()


def test_what_is_not_the_run_s_stays_and_is_named(closed):
    base, path = closed
    (path / "images/mine.png").write_bytes(b"y")
    (path / "notes.txt").write_bytes(b"y")
    assert remove_run(base, path, "r") == ["images", "notes.txt"]
    assert sorted(file.name for file in path.rglob("*") if file.is_file()) == ["mine.png", "notes.txt"]


def test_a_run_that_may_still_be_written_is_kept(closed):
    base, path = closed
    claim_directory(RunPlace(base, "r", "20260102-r"))
    with pytest.raises(RunKept, match="has not ended"):
        remove_run(base, path, "r")
    assert (path / "metrics.csv").exists()


def test_another_run_that_has_the_directory_by_now_is_kept(closed):
    base, path = closed
    with pytest.raises(RunKept, match="run other is not in"):
        remove_run(base, path, "other")
    assert (path / "metrics.csv").exists()


def test_no_file_outside_the_directory_goes_whatever_the_manifest_says(closed):
    base, path = closed
    outside = base / "precious"
    outside.write_bytes(b"z")
    add_files(path, ["../../precious", str(outside)])
    remove_run(base, path, "r")
    assert outside.exists()


def test_a_removal_that_was_interrupted_can_be_repeated(closed):
    base, path = closed
    (path / "metrics.csv").unlink()
    assert (path / MANIFEST_FILE).exists()
    assert remove_run(base, path, "r") == []
    assert not path.exists()
