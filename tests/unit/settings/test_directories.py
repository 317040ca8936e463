"""Paths of the daemon's settings: absolute, UTF-8, or an error that says what to name instead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracker_daemon.endpoints.locate import EndpointChoice, locate
from tracker_daemon.errors import DaemonNotRunning, SettingsError
from tracker_daemon.settings.credentials import child_environment
from tracker_daemon.settings.directories import absolute, working_directory
from tracker_daemon.settings.loading import load


@pytest.fixture
def deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory that has been deleted."""
    place = tmp_path / "deleted"
    place.mkdir()
    monkeypatch.chdir(place)
    place.rmdir()


@pytest.mark.parametrize("setting", ["outdir", "state_dir", "endpoint_file"])
def test_a_path_that_is_not_utf_8_is_an_error_that_shows_it(setting: str) -> None:
    with pytest.raises(SettingsError, match=r"b'/tmp/\\xff' is not UTF-8"):
        load({setting: os.fsdecode(b"/tmp/\xff")})


def test_a_working_directory_that_is_not_utf_8_is_an_error_only_if_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / os.fsdecode(b"\xfe")
    place.mkdir()
    monkeypatch.chdir(place)
    assert load({"outdir": "/a"}).output_directory == Path("/a")
    with pytest.raises(SettingsError, match="not UTF-8"):
        _ = load({}).output_directory


@pytest.mark.usefixtures("deleted")
def test_a_deleted_working_directory_is_an_error_only_if_it_is_needed() -> None:
    assert working_directory() is None
    assert load({"outdir": "/a"}).output_directory == Path("/a")
    with pytest.raises(SettingsError, match="tracker-runs is relative to the working directory"):
        _ = load({}).output_directory
    with pytest.raises(SettingsError, match="deleted; name it in full"):
        load({"outdir": "runs"})


@pytest.mark.usefixtures("deleted")
def test_a_deleted_working_directory_hides_no_daemon_and_no_credentials(tmp_path: Path) -> None:
    with pytest.raises(DaemonNotRunning) as error:
        locate(EndpointChoice(), {"TRACKER_OUTDIR": "/elsewhere"})
    assert "/elsewhere/.tracker/endpoint.json nor " in str(error.value)
    assert child_environment("mlflow", {"MLFLOW_TRACKING_TOKEN": "t"}, home=tmp_path) == {
        "MLFLOW_TRACKING_TOKEN": "t"
    }


def test_a_tilde_is_a_home_directory_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert absolute(Path("~/x")) == Path("/home/ada/x")
    with pytest.raises(SettingsError, match="no home directory is known for ~nobody-of-that-name/x"):
        absolute(Path("~nobody-of-that-name/x"))
