"""Selectors: which backend gets what, what wins, and what is never read or sent."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tracker_client import setup_tracker
from tracker_client.settings import reading as settings
from tracker_client.settings import selectors
from tracker_client.settings.reading import read_settings
from tracker_client.settings.selectors import read_selectors
from tracker_protocol.backend_options import is_daemon_only
from tracker_protocol.limits import BACKEND_OPTIONS_MAX_BYTES

DAEMONS_OWN = (
    "api_key", "key", "token", "password", "username", "secret", "auth", "headers", "cookies", "base_url",
    "host", "url", "uri", "tracking_uri", "registry_uri", "tracking_token", "proxy", "http_proxy",
    "https_proxy", "x_extra_http_headers", "artifact_location", "settings",
)  # fmt: skip


class Watched(Mapping):
    """An environment that knows which of its variables were asked for."""

    def __init__(self, variables):
        self._variables = variables
        self.asked = set()

    def __getitem__(self, name):
        self.asked.add(name)
        return self._variables[name]

    def __iter__(self):
        raise AssertionError("the whole environment was read")

    def __len__(self):
        return len(self._variables)


@pytest.fixture(autouse=True)
def _no_selectors_of_this_machine(monkeypatch):
    for variable in (*selectors.WANDB_VARIABLES, *selectors.MLFLOW_VARIABLES, selectors.DISABLED_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


def options(environ=None, backends=None, **arguments):
    document = read_selectors(environ or {}, arguments, backends).document
    return {} if document is None else json.loads(document)


def read(**arguments):
    return read_selectors({}, arguments)


def test_nothing_given_is_nothing_sent():
    assert read_selectors({}, {}) == selectors.Selectors(None, frozenset(), ())


def test_the_environment_selects():
    environ = {
        "WANDB_ENTITY": "team", "WANDB_RUN_GROUP": "g", "WANDB_NAME": "n", "WANDB_TAGS": "a, b,",
        "WANDB_NOTES": "notes", "WANDB_JOB_TYPE": "train", "WANDB_RUN_ID": "id1", "WANDB_RESUME": "allow",
        "WANDB_MODE": "offline", "WANDB_SWEEP_ID": "s1", "MLFLOW_EXPERIMENT_NAME": "e",
        "MLFLOW_RUN_NAME": "r",
    }  # fmt: skip
    assert options(environ) == {
        "wandb": {
            "entity": "team", "group": "g", "name": "n", "tags": ["a", "b"], "notes": "notes",
            "job_type": "train", "id": "id1", "resume": "allow", "mode": "offline", "sweep_id": "s1",
        },
        "mlflow": {"experiment_name": "e", "run_name": "r"},
    }  # fmt: skip


def test_a_bare_argument_goes_to_the_backend_that_has_it():
    sent = options(group="g", experiment_name="e", description="d", resume=True, entity=None)
    assert sent == {
        "wandb": {"group": "g", "resume": True},
        "mlflow": {"experiment_name": "e", "description": "d"},
    }


def test_name_and_tags_go_to_both_in_each_ones_form():
    assert options(name="n", tags=["a"]) == {
        "wandb": {"name": "n", "tags": ["a"]},
        "mlflow": {"run_name": "n", "tags": {"a": "true"}},
    }
    assert options(tags={"team": "x", "n": 3}) == {
        "wandb": {"tags": ["team:x", "n:3"]},
        "mlflow": {"tags": {"team": "x", "n": "3"}},
    }
    assert options(tags="solo")["wandb"] == {"tags": ["solo"]}
    assert options(tags={"b", "a"})["wandb"] == {"tags": ["a", "b"]}


def test_mlflows_own_run_name_wins_over_the_name():
    assert options(name="n", run_name="r")["mlflow"] == {"run_name": "r"}


def test_a_backends_own_dict_wins_over_bare_arguments_and_these_over_the_environment():
    environ = {"WANDB_RUN_GROUP": "environment", "WANDB_NOTES": "environment", "WANDB_ENTITY": "environment"}
    sent = options(environ, group="bare", notes="bare", wandb={"group": "own", "anything": 1, "entity": None})
    assert sent["wandb"] == {"group": "own", "notes": "bare", "entity": "environment", "anything": 1}


@pytest.mark.parametrize("text", ["", " ", "0", "false", "False", "no", "off"])
def test_wandb_disabled_may_say_no(text):
    environ = {"WANDB_DISABLED": text, "WANDB_MODE": "offline"}
    assert options(environ)["wandb"] == {"mode": "offline"}


@pytest.mark.parametrize("text", ["1", "true", "TRUE", "yes", "anything"])
def test_wandb_disabled_wins_over_all(text):
    environ = {"WANDB_DISABLED": text, "WANDB_MODE": "online"}
    assert options(environ, mode="online", wandb={"mode": "shared"})["wandb"]["mode"] == "disabled"


@pytest.mark.parametrize(
    ("mode", "sent"), [("dryrun", "offline"), ("run", "online"), ("shared", "shared"), ("new-one", "new-one")]
)
def test_older_names_of_modes(mode, sent):
    assert options({"WANDB_MODE": mode})["wandb"] == {"mode": sent}
    assert options(mode=mode)["wandb"] == {"mode": sent}


def test_a_dict_is_a_backends_options_only_where_that_backend_is_named():
    assert options(backends="csv,mine", mine={"level": 2}) == {"mine": {"level": 2}}
    other = read_selectors({}, {"mine": {"level": 2}}, "csv")
    assert (other.document, other.argument_names) == (None, frozenset())


def test_options_of_a_backend_that_are_no_dict_are_warned_about():
    selected = read(wandb="offline", mlflow=None)
    assert selected.document is None
    assert selected.argument_names == {"wandb", "mlflow"}
    (warning,) = selected.warnings
    assert "wandb is of type str" in warning


# ---- secrets and addresses -----------------------------------------------------------------------


@pytest.mark.parametrize("name", DAEMONS_OWN)
def test_a_secret_or_an_address_is_left_out_with_one_warning(name):
    selected = read(
        wandb={name: "hunter2", "group": "g"}, mlflow={"inner": {name: "hunter2"}}, **{name: "hunter2"}
    )
    assert json.loads(selected.document) == {"wandb": {"group": "g"}, "mlflow": {"inner": {}}}
    (warning,) = selected.warnings
    assert f"{name}, mlflow['inner']['{name}'], wandb['{name}']" in warning
    assert "daemon's environment" in warning
    assert "hunter2" not in warning
    assert name in selected.argument_names


@given(st.data())
def test_however_a_name_is_written_the_daemon_need_not_refuse_it(data):
    name = data.draw(st.sampled_from(DAEMONS_OWN))
    upper = data.draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
    assert is_daemon_only("".join(c.upper() if up else c for c, up in zip(name, upper, strict=True)))


def test_the_daemon_takes_what_is_sent():
    client_options = pytest.importorskip("tracker_daemon.runs.client_options")
    own = dict.fromkeys(DAEMONS_OWN, "hunter2")
    sent = read(**own, wandb={**own, "tags": ["\ud800"], "lr": float("nan"), "big": 2**80}).document
    assert client_options.read_backend_options(sent) == {
        "wandb": {"tags": ["?"], "lr": "nan", "big": str(2**80)}
    }


@pytest.mark.parametrize(
    "name", ["tags", "notes", "sort_keys", "tokenizer", "monkey", "job_type", "save_code"]
)
def test_ordinary_names_hold_no_secret(name):
    assert not is_daemon_only(name)


def test_the_users_own_tags_are_not_looked_into():
    assert options(mlflow={"tags": {"tokens": "4", "key": "C#"}})["mlflow"]["tags"] == {
        "tokens": "4",
        "key": "C#",
    }


def test_variables_of_the_daemon_are_not_even_read():
    secrets = (
        "WANDB_API_KEY",
        "WANDB_BASE_URL",
        "MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_TOKEN",
        "AMSC_API_KEY",
    )
    environ = Watched({**dict.fromkeys(secrets, "hunter2"), "WANDB_ENTITY": "e"})
    assert options(environ) == {"wandb": {"entity": "e"}}
    assert environ.asked.isdisjoint(secrets)


def test_the_text_of_an_object_shows_no_secret():
    class Client:
        def __repr__(self):
            return "Client(api_key='hunter 2', level=3)"

    sent = options(backends="mine", mine={"client": Client()})
    assert sent == {"mine": {"client": "Client(api_key=****, level=3)"}}


# ---- JSON, and its bound -------------------------------------------------------------------------


class Hostile:
    def __str__(self):
        raise RuntimeError("no text")


def test_what_is_not_json_becomes_a_text():
    endless = {}
    endless["self"] = endless
    sent = options(wandb={"a": {1: (2, 3)}, "b": float("inf"), "c": Hostile(), "d": 1j, "e": endless})
    assert sent["wandb"].pop("e")
    assert sent["wandb"] == {"a": {"1": [2, 3]}, "b": "inf", "c": "<Hostile>", "d": "1j"}


def test_of_too_much_the_largest_is_left_out_with_a_warning():
    selected = read(wandb={"mode": "disabled", "notes": "n" * BACKEND_OPTIONS_MAX_BYTES}, tags=["t"])
    assert json.loads(selected.document) == {
        "wandb": {"mode": "disabled", "tags": ["t"]},
        "mlflow": {"tags": {"t": "true"}},
    }
    (warning,) = selected.warnings
    assert "wandb['notes']" in warning
    assert len(warning) < 500


@hypothesis_settings(deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=20),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=20,
        ),
        max_size=8,
    ),
    st.sampled_from([0, 1, 5_000]),
)
def test_what_is_sent_is_strict_json_within_its_bound(own, repeats):
    document = read(wandb=own, mlflow={f"option{i}": i for i in range(repeats)}).document
    if document is not None:
        assert len(document.encode()) <= BACKEND_OPTIONS_MAX_BYTES
        sent = json.loads(document, parse_constant=pytest.fail)
        assert all(isinstance(options, dict) for options in sent.values())


# ---- with the settings, and on the wire ----------------------------------------------------------


def test_every_variable_is_named_in_the_settings_documentation():
    named = [*selectors.WANDB_VARIABLES, *selectors.MLFLOW_VARIABLES, selectors.DISABLED_VARIABLE]
    assert [name for name in named if name not in settings.__doc__] == []


def test_options_that_no_table_has_are_still_warned_about():
    found = read_settings(
        environ={"TRACKER_ENDPOINT": "localhost:1"}, modules={}, options={"tags": ["a"], "tgas": ["a"]}
    )
    (warning,) = found.warnings
    assert "does not know tgas;" in warning
    assert json.loads(found.backend_options)["wandb"] == {"tags": ["a"]}


def test_the_clients_own_options_are_no_backends(daemon):
    found = read_settings(
        environ={"TRACKER_ENDPOINT": "localhost:1"}, modules={}, options={"token": "hunter2", "strict": False}
    )
    assert found.backend_options is None
    assert found.warnings == ()


def test_the_hello_carries_the_selectors(daemon, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "hunter2")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    with setup_tracker(
        "p", backends="wandb,mine", endpoint=daemon.endpoint, token=daemon.token, api_key="hunter2",
        group="g", mine={"level": 1, "password": "hunter2"},
    ) as tracker:  # fmt: skip
        assert tracker.run_id == "run-1"
    (hello,) = daemon.hellos
    sent = json.loads(hello.options.backend_options)
    assert sent == {"wandb": {"entity": "team", "group": "g"}, "mine": {"level": 1}}
    assert b"hunter2" not in hello.SerializeToString()
    assert "mine['password']" in caplog.text


def test_a_hello_without_selectors_leaves_them_unset(daemon):
    with setup_tracker("p", endpoint=daemon.endpoint, token=daemon.token) as tracker:
        assert tracker.run_id == "run-1"
    assert not daemon.hellos[0].options.HasField("backend_options")


@pytest.mark.parametrize(
    "arguments", [{"log_system_metrics": True}, {"mlflow": {"log_system_metrics": True}}]
)
def test_mlflows_system_metrics_are_known_and_cause_a_warning(arguments):
    read = read_selectors({}, arguments)
    assert read.document is None
    assert read.argument_names == set(arguments)
    (warning,) = read.warnings
    assert "log_system_metrics has no effect" in warning


def test_system_metrics_that_are_not_wanted_cause_no_warning():
    assert read_selectors({}, {"log_system_metrics": False}).warnings == ()
