"""Settings: arguments over the environment, the launch key, the endpoint."""

import json

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
