"""Settings: arguments over the environment, the launch key, the endpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tracker_client import NullTracker, setup_tracker
from tracker_client.endpoints.embedded import EmbeddedEndpoint
from tracker_client.endpoints.endpoint import EndpointFile
from tracker_client.errors import EndpointError, SettingsError
from tracker_client.settings.reading import backends_of, read_settings, script_name

HERE = {"TRACKER_ENDPOINT": "localhost:1"}


def settings(environ=None, **arguments):
    return read_settings(environ={**HERE, **(environ or {})}, modules={}, **arguments)


@pytest.mark.parametrize(
    ("argument", "environ", "expected"),
    [
        (None, {}, None),
        ("wandb, csv,,csv", {}, "wandb,csv"),
        (["csv", " MLflow "], {}, "csv,mlflow"),
        ("none", {"TRACKER_BACKENDS": "csv"}, "none"),
        ([], {}, "none"),
        ("", {}, "none"),
        (None, {"EZPZ_TRACKERS": "a", "EZPZ_TRACKER_BACKENDS": "b"}, "b"),
        (None, {"TRACKER_BACKENDS": "", "EZPZ_TRACKERS": "a"}, "none"),
    ],
)
def test_backends_come_from_the_argument_then_the_environment(argument, environ, expected):
    assert backends_of(argument, environ) == expected


def test_no_backends_make_a_silent_null_tracker(caplog):
    tracker = setup_tracker(backends="none")
    assert isinstance(tracker, NullTracker)
    with tracker:
        tracker.log({"a": 1})
        tracker.log_config({})
        tracker.log_table("k", [], [])
        tracker.log_image("k", "p")
        tracker.log_artifacts({})
        tracker.watch(None)
    assert tracker.get_backend("wandb") is None
    assert (tracker.wandb_run, tracker.mlflow_run, tracker.run_id, tracker.attempt) == (None,) * 4
    assert tracker.status().state == "disabled"
    assert caplog.records == []


def test_project_and_name_and_run_id():
    assert settings({"WB_PROJECT_NAME": "c", "WANDB_PROJECT": "b"}).project == "b"
    assert settings({"WB_PROJECT": "a"}, project_name="mine").project == "mine"
    assert settings({"TRACKER_RUN_ID": "r"}).run_id == "r"
    assert settings({"WANDB_NAME": "n"}).name == "n"
    assert settings(options={"name": "given"}).name == "given"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/a/train.py"], "train"),
        (["/a/pkg/__main__.py"], "pkg"),
        (["-c"], "tracker"),
        ([""], "tracker"),
        ([], "tracker"),
    ],
)
def test_the_project_defaults_to_the_scripts_name(argv, expected):
    assert script_name(argv) == expected


def test_outdir_is_resolved_against_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settings(outdir="runs").outdir == str(tmp_path / "runs")
    assert settings().outdir is None


def test_a_script_with_a_daemon_of_its_own_need_not_distinguish_its_launch():
    pytest.importorskip("structlog")  # the daemon's packages
    assert read_settings(environ={}, modules={}, rank=0).warnings == ()
    (warning,) = settings(rank=0).warnings
    assert "TRACKER_LAUNCH_ID" in warning


def test_options_of_nobody_are_named_together_with_those_that_exist():
    (warning,) = settings(options={"tgas": ["a"]}).warnings
    assert "tgas" in warning
    assert "record_ranks" in warning


@pytest.mark.parametrize(
    "options",
    [
        {"buffer_bytes": 10},
        {"buffer_bytes": "many"},
        {"primary_rank": -1},
        {"handle_timeout": "soon"},
        {"record_ranks": 3},
    ],
)
def test_unusable_options_are_errors(options):
    with pytest.raises(SettingsError):
        settings(options=options)


def test_without_an_endpoint_the_launch_has_a_daemon_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tracker_client.endpoints.embedded.demand_daemon", lambda: None
    )  # as if it were installed
    source = read_settings(environ={"TRACKER_OUTDIR": str(tmp_path)}, modules={}).source
    assert isinstance(source, EmbeddedEndpoint)
    assert str(source).startswith(f"{tmp_path}/.tracker/launch-")


def test_what_is_no_endpoint_is_an_error():
    with pytest.raises(EndpointError, match="endpoint file"):
        settings(endpoint="nonsense")


def test_an_endpoint_file_is_read_again_each_time(tmp_path):
    path = tmp_path / "endpoint.json"
    source = settings({"TRACKER_ENDPOINT_FILE": str(path), "TRACKER_ENDPOINT": ""}).source
    with pytest.raises(EndpointError, match="not there"):
        source.read()
    path.write_text(
        json.dumps({"endpoint": "a:1", "endpoints": ["a:1", "b:2"], "token": "t", "tls_root_pem": None})
    )
    assert source.read().addresses == ("a:1", "b:2")
    assert source.read().token == "t"
    path.write_text(json.dumps({"endpoint": "unix:/x", "token": "t2"}))
    assert source.read().addresses == ("unix:/x",)
    for text in ("{", "[]", '{"endpoint": 3}', '{"endpoints": ["nowhere"]}'):
        path.write_text(text)
        with pytest.raises(EndpointError):
            source.read()


def test_tokens_come_from_argument_variable_or_file_and_stay_out_of_reprs(tmp_path):
    path = tmp_path / "token"
    path.write_text("filed\n")
    assert settings({"TRACKER_TOKEN_FILE": str(path)}).source.read().token == "filed"
    source = settings({"TRACKER_TOKEN": "secret"}).source
    assert source.read().token == "secret"
    assert "secret" not in repr(source)
    assert "secret" not in repr(EndpointFile(path, "secret"))
    with pytest.raises(SettingsError, match="TRACKER_TOKEN_FILE"):
        settings({"TRACKER_TOKEN_FILE": str(tmp_path / "missing")})


# ---- the output directory --------------------------------------------------------------------------


@pytest.fixture
def no_launch(monkeypatch):
    """A process without a daemon's packages may name a directory for one all the same."""
    monkeypatch.setattr("tracker_client.endpoints.embedded.demand_daemon", lambda: None)


def output(environ=None, **arguments):
    return settings(environ or {}, **arguments)


def test_the_outdir_is_the_argument_else_the_variable_else_the_daemons(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert output(outdir="a").outdir == f"{tmp_path}/a"
    assert output({"TRACKER_OUTDIR": "b"}).outdir == f"{tmp_path}/b"
    assert output({"TRACKER_OUTDIR": "b"}, outdir=Path("/c")).outdir == "/c"
    assert output().outdir is None
    compat = output(default_outdir=".")
    assert (compat.outdir, compat.default_outdir) == (None, str(tmp_path))
    assert output(outdir="a", default_outdir=".").default_outdir is None


def test_a_launchs_own_daemon_is_in_tracker_runs_or_in_the_outdir(tmp_path, monkeypatch, no_launch):
    monkeypatch.chdir(tmp_path)
    for arguments, base in (
        ({}, "tracker-runs/"), ({"outdir": "o"}, "o/"), ({"default_outdir": "."}, ""),
    ):  # fmt: skip
        source = read_settings(environ={}, modules={}, **arguments).source
        assert str(source).startswith(f"{tmp_path}/{base}.tracker/launch-")


def test_a_tilde_is_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert output(outdir="~/x").outdir == "/home/ada/x"
    assert output({"TRACKER_OUTDIR": "~/y"}).outdir == "/home/ada/y"
    with pytest.raises(SettingsError, match="no home directory is known"):
        output(outdir="~nobody-of-that-name/x")


@pytest.mark.parametrize("outdir", [b"/tmp/\xff", os.fsdecode(b"/tmp/\xff"), "a\0b", 3, "/tmp/\ud800"])
def test_an_outdir_that_no_daemon_can_write_to_is_an_error_that_shows_it(outdir):
    with pytest.raises(SettingsError, match=r"directory b'/tmp|null characters|must be a path|can name"):
        output(outdir=outdir)


def test_a_deleted_working_directory_is_an_error_only_if_it_is_needed(tmp_path, monkeypatch, no_launch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert output().outdir is None
    assert output(outdir=tmp_path).outdir == str(tmp_path)
    for arguments in ({}, {"outdir": "o"}):
        with pytest.raises(SettingsError, match="has been deleted; name a directory in full"):
            read_settings(environ={}, modules={}, **arguments)
    named = read_settings(environ={"PWD": "/was"}, modules={}, outdir=tmp_path)
    assert named.working_directory == "/was"


ASCII = r"""
import os, sys
from tracker_client.settings.output import read_output_directory
assert sys.getfilesystemencoding() == "ascii"
given = read_output_directory("/tmp/gr\u00f6\u00dfe", {})
named = read_output_directory(None, {"TRACKER_OUTDIR": os.fsdecode("/tmp/gr\u00f6\u00dfe".encode())})
print(ascii([given.text, named.text]), os.fsencode(given.path) == os.fsencode(named.path))
"""


def test_under_an_ascii_locale_a_name_is_still_utf_8():
    environ = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", ASCII], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "['/tmp/gr\\xf6\\xdfe', '/tmp/gr\\xf6\\xdfe'] True\n"
