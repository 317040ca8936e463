"""Remote handles: what they read, what they pass on, and what they say of what cannot be here."""

from __future__ import annotations

import copy
import re
import threading

import pytest

from tests.support.waiting import wait_until
from tracker_client import NullTracker, Tracker, TrackerBackend
from tracker_client.backends.handles import Handles, HandlesAnswer, HandlesRequest
from tracker_client.errors import NotRemote
from tracker_client.trackers.remote_backends import RemoteBackends
from tracker_client.values.refusals import Refusals

PATIENCE_S = 20.0
WANDB = {
    "id": "abc", "name": "first", "project": "p", "entity": "ada", "mode": "online",
    "url": "https://w/ada/p/runs/abc", "project_url": "https://w/ada/p",
}  # fmt: skip
MLFLOW = {
    "run_id": "f00", "experiment_id": "7", "run_name": "first", "artifact_uri": "mlflow-artifacts:/7/f00",
    "run_url": "http://m/#/experiments/7/runs/f00",
}  # fmt: skip


class Noted(Tracker):
    """Notes what is called."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.configuration = {}

    def log(self, *arguments, **named):
        self.calls.append(("log", *arguments, *named.items()))

    def log_config(self, config):
        self.calls.append(("log_config", config))
        self.configuration.update(config)

    def log_table(self, *arguments):
        self.calls.append(("log_table", *arguments))

    def log_image(self, *arguments):
        self.calls.append(("log_image", *arguments))

    def log_artifacts(self, *arguments):
        self.calls.append(("log_artifacts", *arguments))

    def watch(self, model, **kwargs):
        self.calls.append(("watch", model, kwargs))

    def finish(self, exit_code=0, wait="recorded", timeout=60.0):
        self.calls.append(("finish", exit_code))


@pytest.fixture
def tracker():
    return Noted()


@pytest.fixture
def backends(tracker):
    told = {"wandb": WANDB, "mlflow": MLFLOW}

    def read(backend, name):
        return told.get(backend, {}).get(name)

    return RemoteBackends(tracker, read, tracker.configuration, Refusals())


@pytest.fixture
def run(backends):
    return backends.get("wandb").run


# ---- what is read --------------------------------------------------------------------------------


def test_a_wandb_run_reads_its_ids_and_addresses(run):
    assert {name: getattr(run, name) for name in WANDB} == WANDB
    assert (run.path, run.offline, run.group) == ("ada/p/abc", False, None)
    assert (run.get_url(), run.get_project_url(), run.project_name()) == (
        WANDB["url"],
        WANDB["project_url"],
        "p",
    )


def test_an_mlflow_run_reads_its_ids_under_info(backends):
    backend = backends.get("mlflow")
    info = backend.run.info
    assert (info.run_id, info.run_uuid, info.experiment_id) == ("f00", "f00", "7")
    assert (info.run_name, info.artifact_uri) == ("first", "mlflow-artifacts:/7/f00")
    assert backend.run_url == MLFLOW["run_url"]


def test_a_backend_s_handle_is_a_backend_and_the_same_each_time(backends):
    assert isinstance(backends.get("csv"), TrackerBackend)
    assert backends.get("wandb") is backends.get("wandb")
    assert backends.get("csv").run_url is None


# ---- what is passed on ---------------------------------------------------------------------------


def test_what_a_handle_is_given_goes_through_the_tracker(backends, tracker):
    backend, model = backends.get("wandb"), object()
    backend.log({"loss": 1.0}, step=3)
    backend.run.log({"loss": 2.0}, commit=False)
    backend.log_config({"lr": 0.1})
    backend.log_table("t", ["a"], [[1]])
    backend.log_image("i", "image.png", caption="c")
    backend.log_artifacts({"label": "path"})
    backend.watch(model, log="all")
    backend.run.finish()
    assert tracker.calls == [
        ("log", {"loss": 1.0}, 3, True),
        ("log", {"loss": 2.0}, None, False),
        ("log_config", {"lr": 0.1}),
        ("log_table", "t", ["a"], [[1]]),
        ("log_image", "i", "image.png", "c"),
        ("log_artifacts", {"label": "path"}),
        ("watch", model, {"log": "all"}),
        ("finish", 0),
    ]


def test_the_configuration_is_read_as_it_was_logged_and_what_is_set_is_logged(run, tracker):
    tracker.log_config({"lr": 0.1})
    config = run.config
    config["width"] = 8
    config.depth = 3
    config.update({"a": 1}, b=2, allow_val_change=True)
    assert dict(config) == config.as_dict() == {"lr": 0.1, "width": 8, "depth": 3, "a": 1, "b": 2}
    assert (config.lr, config["depth"], config.get("none"), len(config)) == (0.1, 3, None, 5)
    assert not hasattr(config, "none")
    assert tracker.calls[1:] == [
        ("log_config", {"width": 8}), ("log_config", {"depth": 3}), ("log_config", {"a": 1, "b": 2})
    ]  # fmt: skip
    with pytest.raises(NotRemote, match="cannot be deleted"):
        del config["lr"]


def test_a_summary_s_value_is_logged_with_the_next_row(run, tracker):
    run.summary["best"] = 0.5
    run.summary.update({"last": 1.0})
    assert dict(run.summary) == {"best": 0.5, "last": 1.0}
    assert tracker.calls == [
        ("log", {"best": 0.5}, ("commit", False)),
        ("log", {"last": 1.0}, ("commit", False)),
    ]


def test_a_summary_s_value_is_set_and_read_as_an_attribute_too(run, tracker):
    run.summary.best = 0.5
    assert (run.summary.best, run.summary["best"], run.summary.get("best")) == (0.5, 0.5, 0.5)
    assert tracker.calls == [("log", {"best": 0.5}, ("commit", False))]


# ---- what cannot be here -------------------------------------------------------------------------


def test_what_a_run_has_not_says_what_to_use_instead(backends, run):
    cases = [
        (run, "use_artifact", "wandb.Api"),
        (run, "log_artifact", "log_artifacts"),
        (run, "anything", "the tracker's own methods"),
        (backends.get("mlflow").run, "data", "MlflowClient"),
        (backends.get("mlflow").run.info, "status", "MlflowClient"),
        (backends.get("csv"), "run", "tracker's own methods"),
        (backends.get("csv"), "file", "tracker's own methods"),
    ]
    for handle, name, instead in cases:
        assert not hasattr(handle, name)
        with pytest.raises(NotRemote, match=instead):
            getattr(handle, name)


def test_a_value_that_this_process_has_not_logged_says_where_it_is_and_is_a_missing_key(run):
    for values, words in (
        (run.summary, r"^summary\['loss'\] was not set by this process.*wandb\.Api\(\)\.run\("),
        (run.config, r"^this process has logged no configuration 'loss'.*wandb_run\.url"),
    ):
        for kind in (KeyError, NotRemote):
            with pytest.raises(kind, match=words):
                values["loss"]
        with pytest.raises(NotRemote, match=words):
            values.loss  # noqa: B018 - reading it is what raises
        assert values.get("loss", "none") == "none"
        assert "loss" not in values
        assert not hasattr(values, "loss")


@pytest.mark.parametrize("part", ["params", "metrics", "tags"])
def test_an_mlflow_run_s_data_names_the_call_that_reads_it(backends, part):
    reading = "mlflow.MlflowClient(mlflow_run.tracking_uri).get_run(mlflow_run.info.run_id).data,"
    with pytest.raises(NotRemote, match=re.escape(reading)):
        getattr(backends.get("mlflow").run.data, part)


def test_a_run_s_name_cannot_be_set_here(run):
    with pytest.raises(NotRemote, match="setup_tracker"):
        run.name = "other"


def test_handles_can_be_copied(backends, run):
    assert copy.copy(run).id == "abc"
    assert copy.copy(run.config).as_dict() == {}
    assert dict(copy.copy(run.summary)) == {}


def test_in_process_and_null_trackers_answer_alike():
    class Mine(TrackerBackend):
        name = "wandb"
        run = "a run"

        def log(self, metrics, step=None, commit=True): ...

        def log_config(self, config): ...

        def finish(self): ...

    mine = Mine()
    tracker = Tracker([mine])
    assert (tracker.get_backend("wandb"), tracker.wandb_run) == (mine, "a run")
    assert (tracker.get_backend("mlflow"), tracker.mlflow_run) == (None, None)
    null = NullTracker()
    assert (null.get_backend("wandb"), null.wandb_run, null.mlflow_run) == (None, None, None)


# ---- asking --------------------------------------------------------------------------------------


def test_reading_asks_once_and_waits_for_the_handle_itself():
    asked = []
    handles = Handles(asked.append, PATIENCE_S, Refusals())
    read = []
    reader = threading.Thread(target=lambda: read.append(handles.read("wandb", "url")))
    reader.start()
    wait_until(lambda: asked, "the daemon to be asked")
    handles.receive(HandlesAnswer("wandb", {"id": "abc"}))
    assert handles.read("wandb", "id") == "abc"
    assert read == []
    handles.receive(HandlesAnswer("wandb", WANDB))
    reader.join(PATIENCE_S)
    assert read == [WANDB["url"]]
    assert asked == [HandlesRequest("wandb")]
    assert handles.asked == ["wandb"]


def test_without_an_answer_reading_gives_nothing_after_its_time_and_waits_no_more(caplog):
    handles = Handles(lambda _: None, 0.05, Refusals())
    assert handles.read("wandb", "id") is None
    assert handles.read("wandb", "id") is None
    assert caplog.text.count("did not send it within 0.05 s") == 1
    handles.receive(HandlesAnswer("wandb", WANDB))
    assert handles.read("wandb", "id") == "abc"


def test_a_reason_why_there_is_nothing_is_told_at_once(caplog):
    handles = Handles(lambda _: None, PATIENCE_S, Refusals())
    handles.receive(HandlesAnswer("wandb", {"id": "abc"}, "wandb is paused: no key"))
    assert handles.read("wandb", "id") == "abc"
    assert caplog.text == ""
    assert handles.read("wandb", "url") is None
    assert "paused: no key" in caplog.text


def test_a_handle_that_the_backend_does_not_have_is_none_at_once_without_a_warning(caplog):
    handles = Handles(lambda _: None, PATIENCE_S, Refusals())
    handles.receive(HandlesAnswer("wandb", {"id": "abc"}, complete=True))  # an offline run has no url
    assert handles.read("wandb", "url") is None
    assert caplog.text == ""


def test_a_handle_that_is_known_or_given_never_becomes_none():
    handles = Handles(lambda _: None, PATIENCE_S, Refusals(), {"wandb": {"id": "given"}})
    assert handles.read("wandb", "id") == "given"
    handles.receive(HandlesAnswer("wandb", {"url": WANDB["url"]}, complete=True))
    for answer in (
        HandlesAnswer("wandb", {}, "wandb is paused: the key has expired"),
        HandlesAnswer("wandb", {}),
    ):
        handles.receive(answer)
        assert (handles.read("wandb", "id"), handles.read("wandb", "url")) == ("given", WANDB["url"])
