"""Arguments of ``wandb.init``: the script's selectors and description, never the daemon's."""

import dataclasses
from pathlib import Path

import pytest

from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.wandb.init_arguments import (
    Mode,
    init_arguments,
    mode_of,
    settings_arguments,
    wandb_id,
)
from tracker_daemon.errors import BackendRefused
from tracker_daemon.version import VERSION


def described(run_id="run-a", environment=None, **options):
    return RunDescription(
        run_id, "project", "name", Path("/out"), options=options, environment=environment or {}
    )


@pytest.fixture(autouse=True)
def no_mode(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)


@pytest.mark.parametrize(
    ("options", "daemons", "mode"),
    [
        ({}, None, Mode.ONLINE),
        ({}, "offline", Mode.OFFLINE),
        ({"mode": "disabled"}, "offline", Mode.DISABLED),
        ({"mode": "dryrun"}, None, Mode.OFFLINE),
        ({"mode": "Shared"}, None, Mode.SHARED),
    ],
)
def test_the_scripts_mode_wins_over_the_daemons(monkeypatch, options, daemons, mode):
    if daemons:
        monkeypatch.setenv("WANDB_MODE", daemons)
    assert mode_of(described(**options)) is mode


def test_an_unknown_mode_is_refused_by_name():
    with pytest.raises(BackendRefused, match="'airplane'"):
        mode_of(described(mode="airplane"))


def test_the_id_is_the_scripts_or_the_runs_where_wandb_takes_it():
    assert wandb_id(described()) == "run-a"
    assert wandb_id(described(id="mine")) == "mine"


@pytest.mark.parametrize("run_id", ["a/b", "a:b", "ä", " a", "-", "x" * 65, "a\nb", "#?"])
def test_other_ids_are_made_fit_and_stay_apart(run_id):
    made = wandb_id(described(run_id))
    assert len(made) <= 64
    assert not set(made) & set(":;,#?/'\n ")
    assert made[0].isalnum()
    assert made != wandb_id(described(f"{run_id}?"))


@pytest.mark.parametrize(
    ("options", "begun", "expected"),
    [
        ({}, False, {"resume": "allow"}),
        ({"resume": "never"}, False, {"resume": "never"}),
        ({"resume": "must"}, False, {"resume": "must"}),
        ({"resume": "never"}, True, {"resume": "allow"}),
        ({"fork_from": "a?_step=3"}, False, {"fork_from": "a?_step=3"}),
        ({"fork_from": "a?_step=3"}, True, {"resume": "allow"}),
    ],
)
def test_the_scripts_choice_about_resuming_counts_for_the_first_time(options, begun, expected):
    arguments = init_arguments(described(**options), Mode.ONLINE, begun=begun)
    assert {name: arguments[name] for name in ("resume", "fork_from") if name in arguments} == expected


def test_tags_come_as_a_list_or_with_commas():
    assert init_arguments(described(tags="a, b"), Mode.OFFLINE, begun=False)["tags"] == ["a", "b"]
    assert init_arguments(described(tags=["a"]), Mode.OFFLINE, begun=False)["tags"] == ["a"]
    assert init_arguments(described(), Mode.OFFLINE, begun=False)["tags"] is None


@pytest.mark.parametrize(
    ("program", "relative"),
    [("/home/ada/train/src/main.py", "src/main.py"), ("/elsewhere/main.py", "main.py"), ("-m train", None)],
)
def test_the_program_is_the_scripts(program, relative):
    environment = {"program": program, "working_directory": "/home/ada/train"}
    settings = settings_arguments(described(environment=environment), Mode.OFFLINE)
    assert settings["program"] == program
    assert settings.get("program_relpath") == relative


def test_without_a_description_the_daemons_process_is_not_described():
    settings = settings_arguments(described(), Mode.OFFLINE)
    assert settings["disable_git"]
    assert settings["program"] == "-"


def test_no_option_of_the_script_reaches_the_sdks_settings_but_those_known():
    run = described(base_url="https://evil.example", api_key="k" * 40, settings={"api_key": "k"}, unknown=1)
    given = {**init_arguments(run, Mode.ONLINE, begun=False), **settings_arguments(run, Mode.ONLINE)}
    assert not {"base_url", "api_key", "unknown"} & set(given)


def test_the_configuration_begins_with_the_facts_about_the_script_and_the_runs_begin():
    environment = {"host": "node17", "world_size": "8", "device": "cuda"}
    run = dataclasses.replace(described(environment=environment), created_ns=1_772_600_767 * 10**9)
    config = init_arguments(run, Mode.OFFLINE, begun=False)["config"]
    assert (config["hostname"], config["machine"]) == ("node17", "node17")
    assert (config["world_size"], config["device_type"]) == (8, "cuda")
    assert (config["year"], config["month"], config["day"]) == (2026, 3, 4)
    assert config["tracker_version"] == VERSION


def test_what_the_script_configures_wins_over_the_facts():
    run = described(environment={"world_size": "8"}, config={"world_size": 3})
    assert init_arguments(run, Mode.OFFLINE, begun=False)["config"]["world_size"] == 3
