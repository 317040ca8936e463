"""What a client may say about backends."""

from __future__ import annotations

import json

import pytest

from tracker_daemon.errors import ProtocolError, SettingsError
from tracker_daemon.runs.client_options import read_backend_options, read_environment
from tracker_protocol.limits import BACKEND_OPTIONS_MAX_BYTES


def test_selectors_pass():
    options = {"wandb": {"group": "g", "tags": ["a"], "mode": "offline"}, "mlflow": {"experiment_name": "e"}}
    assert read_backend_options(json.dumps(options)) == options
    assert read_backend_options("") == {}


@pytest.mark.parametrize("name", ["api_key", "base_url", "tracking_uri", "token", "password", "API_KEY"])
def test_what_could_send_the_daemons_key_elsewhere_is_refused_by_its_name(name):
    with pytest.raises(SettingsError, match=name):
        read_backend_options(json.dumps({"wandb": {name: "x"}}))


@pytest.mark.parametrize("own", [{"client": {"base_url": "x"}}, {"inner": [{"deeper": {"auth_token": "x"}}]}])
def test_a_nested_option_of_the_daemon_is_refused(own):
    with pytest.raises(SettingsError, match=r"base_url|auth_token"):
        read_backend_options(json.dumps({"mine": own}))


def test_an_option_is_found_at_any_depth():
    own = {"auth_token": "x"}
    for _ in range(500):
        own = {"inner": own}
    with pytest.raises(SettingsError, match=r"mine\['inner'\]") as refused:
        read_backend_options(json.dumps({"mine": own}))
    assert len(str(refused.value)) < 500


def test_the_users_own_tags_are_not_checked():
    options = {"mlflow": {"tags": {"token": "4", "host": "h"}}}
    assert read_backend_options(json.dumps(options)) == options


@pytest.mark.parametrize("document", ["[]", "1", "{", '{"wandb": 1}', '"x"'])
def test_what_is_no_object_of_objects_is_refused(document):
    with pytest.raises(ProtocolError):
        read_backend_options(document)


def test_the_description_of_the_script_is_texts_and_bounded():
    assert read_environment('{"user": "ada"}') == {"user": "ada"}
    with pytest.raises(ProtocolError):
        read_environment('{"user": 1}')
    with pytest.raises(ProtocolError):
        read_environment(json.dumps({"command": "x" * BACKEND_OPTIONS_MAX_BYTES}))


def test_options_that_are_nested_too_deeply_are_refused():
    document = '{"mine": ' + '{"inner": ' * 2_000 + "1" + "}" * 2_001
    with pytest.raises(ProtocolError, match="backend options"):
        read_backend_options(document)
