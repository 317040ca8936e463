"""Setting up without a daemon: which backends are begun, with which options, and what is said of the rest."""

import importlib.util
import inspect
import subprocess
import sys
from typing import ClassVar

import pytest

import tracker_client
from tracker_client import NullTracker, Tracker, TrackerBackend, ezpz_compat, register_backend
from tracker_client import setup_tracker as set_up
from tracker_client.backends import base as backend
from tracker_client.errors import BackendNotInstalled, RankUnknown
from tracker_client.inprocess import loading


class Notes(TrackerBackend):
    made: ClassVar[list] = []

    def __init__(self, **kwargs):
        self.told = kwargs
        self.rows = []
        self.made.append(self)

    def log(self, metrics, step=None, commit=True):
        self.rows.append((dict(metrics), step, commit))

    def log_config(self, config):
        pass

    def finish(self):
        pass


class WithoutConfig:
    """A class with a backend's methods alone, as some scripts have them."""

    made: ClassVar[list] = []

    def __init__(self, outdir, rank=0):
        self.calls = [("made", outdir, rank)]
        self.made.append(self)

    def log(self, metrics, step=None, commit=True):
        self.calls.append(("log", dict(metrics), step))

    def log_config(self, config):
        self.calls.append(("log_config", config))

    def finish(self):
        self.calls.append(("finish",))


class Picky(Notes):
    def __init__(self, project_name, config, outdir, rank, colour="grey"):
        super().__init__(project_name=project_name, config=config, outdir=outdir, rank=rank, colour=colour)


class Broken(Notes):
    def __init__(self, **kwargs):
        raise RuntimeError("its server is gone")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(backend, "_registered", {})
    monkeypatch.setattr(Notes, "made", [])
    monkeypatch.delenv("TRACKER_ENDPOINT", raising=False)
    for name, cls in (("notes", Notes), ("picky", Picky), ("broken", Broken)):
        register_backend(name, cls)


def test_a_registered_class_is_constructed_as_the_seeds_were_and_fed():
    tracker = set_up("p", "notes", {"lr": 1}, "/out", 0, endpoint="inprocess", notes={"colour": "red"})
    assert Notes.made[0].told == {
        "project_name": "p", "config": {"lr": 1}, "outdir": "/out", "rank": 0, "colour": "red",
    }  # fmt: skip
    tracker.log({"loss": 1.0}, step=3)
    assert Notes.made[0].rows == [({"loss": 1.0}, 3, True)]
    assert tracker.get_backend("notes") is Notes.made[0]
    assert type(tracker) is Tracker
    assert tracker.run_id


def test_the_endpoint_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("TRACKER_ENDPOINT", "inprocess")
    monkeypatch.setenv("TRACKER_RUN_ID", "yesterday")
    tracker = set_up(backends="notes")
    assert tracker.get_backend("notes") is not None
    assert tracker.run_id == "yesterday"


def test_a_backend_that_fails_or_is_not_there_leaves_the_others(caplog):
    tracker = set_up(backends="broken, nonsense, notes", endpoint="inprocess")
    assert tracker.get_backend("notes") is not None
    assert tracker.get_backend("broken") is None
    unknown, failing = caplog.messages
    assert "nonsense" in unknown
    assert "csv, mlflow, notes" in unknown
    assert "its server is gone" in failing


def test_nothing_that_works_is_a_null_tracker():
    tracker = set_up(backends="broken", endpoint="inprocess")
    assert isinstance(tracker, NullTracker)
    tracker.log({"loss": 1.0})


def test_a_class_whose_constructor_takes_no_configuration_gets_it_by_log_config(monkeypatch):
    monkeypatch.setattr(WithoutConfig, "made", [])
    register_backend("csv", WithoutConfig)
    tracker = set_up("p", "csv", {"lr": 1}, rank=0, endpoint="inprocess")
    tracker.log({"loss": 1.0}, step=3)
    tracker.finish()
    (made,) = WithoutConfig.made
    assert tracker.get_backend("csv") is made
    assert made.calls == [
        ("made", ".", 0), ("log_config", {"lr": 1}), ("log", {"loss": 1.0}, 3), ("finish",),
    ]  # fmt: skip


def test_a_backend_named_twice_is_one():
    set_up(backends=["notes", " Notes "], endpoint="inprocess")
    assert len(Notes.made) == 1


def test_bare_options_go_to_whose_signature_has_them_and_a_dict_to_its_own(caplog):
    set_up(backends="picky,notes", endpoint="inprocess", colour="blue", shape="round", notes={"size": 3})
    picky, notes = Notes.made
    assert picky.told["colour"] == "blue"
    assert "shape" not in picky.told
    given = {name: notes.told[name] for name in ("colour", "shape", "size")}
    assert given == {"colour": "blue", "shape": "round", "size": 3}
    assert not caplog.messages


def test_an_option_that_no_backend_takes_is_named(caplog):
    set_up(backends="picky", endpoint="inprocess", shape="round")
    (warning,) = caplog.messages
    assert "shape" in warning


def test_the_clients_own_options_reach_no_backend():
    set_up(backends="notes", endpoint="inprocess", buffer_bytes=2**20, strict=False)
    assert not {"buffer_bytes", "strict"} & set(Notes.made[0].told)


def test_the_rank_is_detected_and_never_guessed(monkeypatch):
    monkeypatch.setenv("TRACKER_RANK", "3")
    set_up(backends="notes", endpoint="inprocess")
    assert Notes.made[0].told["rank"] == 3
    monkeypatch.delenv("TRACKER_RANK")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(RankUnknown):
        set_up(backends="notes", endpoint="inprocess")


def test_a_missing_package_names_its_extra(monkeypatch, caplog):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(BackendNotInstalled, match=r"pip install 'tracker-daemon\[wandb\]'"):
        tracker_client.WandbBackend("p", rank=0)
    assert tracker_client.WandbBackend is tracker_client.WandbBackend
    assert isinstance(set_up(backends="mlflow", endpoint="inprocess"), NullTracker)
    assert "pip install 'tracker-daemon[mlflow]'" in caplog.text


def test_without_the_daemons_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tracker_daemon.inprocess", None)
    monkeypatch.setitem(__import__("sys").modules, "tracker_daemon", None)
    with pytest.raises(ImportError, match=r"pip install 'tracker-daemon\[daemon\]'"):
        exec("from tracker_client import CSVBackend\nCSVBackend('.')")


def test_the_seeds_names_are_in_the_compatibility_module():
    wanted = {
        "setup_tracker", "Tracker", "NullTracker", "TrackerBackend", "register_backend", "CSVBackend",
        "MLflowBackend", "WandbBackend", "resolve_backend_names",
    }  # fmt: skip
    assert set(ezpz_compat.__all__) == wanted
    for name in ("Tracker", "NullTracker", "TrackerBackend", "register_backend"):
        assert getattr(ezpz_compat, name) is getattr(tracker_client, name)
    seeds = ["project_name", "backends", "config", "outdir", "rank"]
    assert list(inspect.signature(ezpz_compat.setup_tracker).parameters)[:5] == seeds


@pytest.mark.parametrize(
    ("file", "project"),
    [("/home/ada/examples/fsdp.py", "ezpz.examples.fsdp"), ("/fsdp.py", "ezpz..fsdp"), (None, "ezpz")],
)
def test_the_default_project_is_the_seeds_with_the_compatibility_module_alone(monkeypatch, file, project):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", file, raising=False)
    monkeypatch.setattr(sys, "argv", ["/home/ada/examples/fsdp.py"])
    ezpz_compat.setup_tracker(backends="notes", endpoint="inprocess", colour="red")
    set_up(backends="notes", endpoint="inprocess")
    monkeypatch.setenv("WANDB_PROJECT", "of-the-environment")
    ezpz_compat.setup_tracker(backends="notes", endpoint="inprocess")
    ezpz_compat.setup_tracker("given", "notes", endpoint="inprocess")
    projects = [made.told["project_name"] for made in Notes.made]
    assert projects == [project, "fsdp", "of-the-environment", "given"]
    assert Notes.made[0].told["colour"] == "red"


@pytest.mark.parametrize(
    ("variables", "argument", "names"),
    [
        ({}, None, ["wandb"]),
        ({"EZPZ_TRACKERS": "csv, wandb"}, None, ["csv", "wandb"]),
        ({"EZPZ_TRACKER_BACKENDS": "none"}, None, []),
        ({"EZPZ_TRACKER_BACKENDS": "csv", "EZPZ_TRACKERS": "wandb"}, None, ["csv"]),
        ({"TRACKER_BACKENDS": "mlflow", "EZPZ_TRACKER_BACKENDS": "csv"}, None, ["mlflow"]),
        ({"TRACKER_BACKENDS": "mlflow"}, ["csv", "wandb"], ["csv", "wandb"]),
        ({}, "none", []),
        ({}, "", []),
    ],
)
def test_the_names_of_the_backends_are_resolved_as_setup_tracker_does(
    monkeypatch, variables, argument, names
):
    for name in ("TRACKER_BACKENDS", "EZPZ_TRACKER_BACKENDS", "EZPZ_TRACKERS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ezpz_compat.resolve_backend_names(argument) == names


ALONE = """
import sys
for package in ("mlflow", "wandb", "numpy", "msgspec", "structlog", "pydantic", "torch"):
    sys.modules[package] = None
import tracker_client
assert not [name for name in sys.modules if name.startswith("tracker_daemon")]
assert all(hasattr(tracker_client, name) for name in tracker_client.__all__)
from tracker_client import *
assert set(tracker_client.__all__) <= set(globals())
try:
    CSVBackend("out")
except ImportError as error:
    print(error)
"""


def test_the_client_alone_can_be_imported_with_all_its_names():
    command = [sys.executable, "-c", ALONE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "run pip install 'tracker-daemon[daemon]'" in done.stdout


def test_other_names_are_not_there():
    assert not hasattr(tracker_client, "nonsense")
    assert not hasattr(ezpz_compat, "nonsense")
    assert importlib.util.find_spec("tracker_client.ezpz_compat")
