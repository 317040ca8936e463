"""Settings: three forms under one name, which goes first, and what is said of those that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tracker_daemon.errors import SettingsError
from tracker_daemon.settings.definitions import Settings, flag_of, variable_of
from tracker_daemon.settings.loading import load
from tracker_daemon.settings.view import describe, shown

# For each setting: what a flag, a variable and the file say in a test, as text; all differ.
FORMS: dict[str, tuple[str, str, str]] = {
    "listen": ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"),
    "endpoint_file": ("/a/e.json", "/b/e.json", "/c/e.json"),
    "interface": ("lo", "hsn0", "hsn0,ib0"),
    "tls": ("false", "true", "true"),
    "tls_cert": ("/a", "/b", "/c"),
    "tls_key": ("/a", "/b", "/c"),
    "token": ("a" * 16, "b" * 16, "c" * 16),
    "upstream": ("a:1", "b:1", "c:1"),
    "upstream_token": ("a" * 16, "b" * 16, "c" * 16),
    "upstream_tls_root": ("/a", "/b", "/c"),
    "state_dir": ("/a", "/b", "/c"),
    "outdir": ("/a", "/b", "/c"),
    "backends": ("csv", "memory", "csv,memory"),
    "primary_rank": ("1", "2", "3"),
    "record_ranks": ("1", "2", "3-4"),
    "item_ranks": ("1", "2", "3-4"),
    "reporters": ("a=all", "b=primary", "c=all"),
    "aggregates": ("a=none", "b=mean+max", "c=all"),
    "step_axes": ("a=epoch", "b=epoch", "c=hour"),
    "summaries": ("a=min", "b=max", "c=last"),
    "thinning": ("csv:a=2", "*:b=1s", "mlflow:*=none"),
    "config_may_differ": ("rank", "rank,host", "*"),
    "system_prefix": ("a", "ezpz", "c"),
    "mlflow_own_name": ("local", "plain", "local"),
    "learn_wait_s": ("1.5", "2.5", "3.5"),
    "partial_after_s": ("11.5", "12.5", "13.5"),
    "lagging_after_cells": ("1", "2", "4"),
    "restart_grace_s": ("1.5", "2.5", "3.5"),
    "challenge_timeout_s": ("1.5", "2.5", "3.5"),
    "primary_wait_s": ("1.5", "2.5", "3.5"),
    "lost_timeout_s": ("1.5", "2.5", "3.5"),
    "start_timeout_s": ("1.5", "2.5", "3.5"),
    "commit_window_s": ("0.001", "0.002", "0.003"),
    "history_bytes": ("1", "2", "3"),
    "open_cells_bytes": ("1", "2", "3"),
    "content_max_bytes": ("1", "2", "3"),
    "contents_max_bytes": ("1", "2", "3"),
    "snapshot_every_bytes": ("1", "2", "3"),
    "snapshot_every_s": ("1.5", "2.5", "3.5"),
    "flush_interval_s": ("0.1", "0.2", "0.3"),
    "drain_timeout_s": ("1.5", "2.5", "3.5"),
    "grace_s": ("1.5", "2.5", "3.5"),
    "idle_timeout_s": ("1.5", "2.5", "3.5"),
    "orphan_timeout_s": ("1.5", "2.5", "3.5"),
    "log_level": ("debug", "warning", "error"),
    "log_format": ("console", "json", "console"),
}
NAMES = sorted(FORMS)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable_of(name), raising=False)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)


def toml(directory: Path, **values: Any) -> Path:
    path = directory / "tracker.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    return path


def in_file(name: str) -> Any:
    """The file's value as TOML would type it."""
    kind = type(getattr(Settings(), name))
    if kind is bool:
        return FORMS[name][2] == "true"
    return kind(FORMS[name][2]) if kind in (int, float) else FORMS[name][2]


def text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return (
        ",".join(value)
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def test_every_setting_is_tried_in_its_three_forms() -> None:
    assert set(FORMS) == set(Settings.model_fields) - {"config"}


@pytest.mark.parametrize("name", NAMES)
def test_a_flag_goes_before_a_variable_before_the_file_before_the_default(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag, variable, file = FORMS[name]
    path = toml(tmp_path, **{name: in_file(name)})
    default = getattr(load({}), name)
    assert load({}).origin(name) == "default"

    from_file = load({"config": path})
    assert text(getattr(from_file, name)) == file != text(default)
    assert from_file.origin(name) == f"file {path}"

    monkeypatch.setenv(variable_of(name), variable)
    from_environment = load({"config": path})
    assert text(getattr(from_environment, name)) == variable
    assert from_environment.origin(name) == f"environment {variable_of(name)}"

    from_flag = load({"config": path, name: flag})
    assert text(getattr(from_flag, name)) == flag
    assert from_flag.origin(name) == f"flag {flag_of(name)}"


def test_the_file_may_be_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKER_CONFIG", str(toml(tmp_path, primary_rank=5)))
    assert load({}).primary_rank == 5


def test_a_file_that_merely_lies_there_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tracker-daemon.toml").write_text("primary_rank = 5\n")
    assert load({}).primary_rank == 0


def test_a_variable_may_be_written_in_small_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("tracker_primary_rank", "5")
    assert load({}).primary_rank == 5


def test_constructing_settings_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKER_PRIMARY_RANK", "5")
    assert Settings().primary_rank == 0


def test_variables_of_the_clients_are_no_error_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    without = load({})
    for name in (
        "TRACKER_ENDPOINT",
        "TRACKER_TOKEN_FILE",
        "TRACKER_LAUNCH_ID",
        "TRACKER_RANK",
        "TRACKER_NO_SUCH_THING",
    ):
        monkeypatch.setenv(name, "x")
    assert load({}) == without


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKER_OUTDIR", "")
    assert load({}).outdir is None


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("learn_wait = 3", "unknown setting 'learn_wait' .did you mean 'learn_wait_s'"),
        ("Record-Ranks = '0'", "did you mean 'record_ranks'"),
        ("zzz = 1", "known are listen, "),
        ("config = 'other.toml'", "cannot be set in one"),
        ("learn_wait_s = ", "not valid TOML"),
    ],
)
def test_a_key_that_names_no_setting_is_an_error(tmp_path: Path, content: str, named: str) -> None:
    path = tmp_path / "t.toml"
    path.write_text(content)
    with pytest.raises(SettingsError, match=named) as caught:
        load({"config": path})
    assert str(path) in str(caught.value)


def test_the_value_of_an_unknown_key_is_not_repeated_since_it_may_be_a_secret(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="wandb_api_key") as caught:
        load({"config": toml(tmp_path, wandb_api_key="k3y")})
    assert "k3y" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing\.toml cannot be read: No such file"):
        load({"config": tmp_path / "missing.toml"})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="not valid TOML"):
        load({"config": tmp_path / "binary.toml"})


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("learn_wait_s", "soon", "valid number"),
        ("learn_wait_s", "-1", "greater than or equal to 0"),
        ("lost_timeout_s", "0", "greater than 0"),
        ("lost_timeout_s", "inf", "finite"),
        ("history_bytes", "-5", "greater than 0"),
        ("primary_rank", "-1", "greater than or equal to 0"),
        ("primary_rank", "1.5", "valid integer"),
        ("record_ranks", "0,x", "neither a rank nor a range"),
        ("reporters", "lr", "GLOB=primary"),
        ("listen", "nowhere", "host:port"),
        ("listen", ",", "one address at least"),
        ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("log_format", "xml", "'auto', 'console' or 'json'"),
    ],
)
def test_an_unusable_value_is_named_with_its_source_and_what_is_allowed(
    name: str, value: str, allowed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match=allowed) as caught:
        load({name: value})
    assert f"{name} = " in str(caught.value)
    assert f"flag {flag_of(name)}" in str(caught.value)
    with pytest.raises(SettingsError, match=f"file {tmp_path}"):
        load({"config": toml(tmp_path, **{name: value})})
    monkeypatch.setenv(variable_of(name), value)
    with pytest.raises(SettingsError, match=variable_of(name)):
        load({})


def test_all_unusable_values_are_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"primary_rank.*learn_wait_s|learn_wait_s.*primary_rank"):
        load({"primary_rank": "x", "learn_wait_s": "y"})


def test_partial_cells_wait_longer_than_clients_take_to_flush_twice() -> None:
    with pytest.raises(SettingsError, match="twice the longest flush interval"):
        load({"partial_after_s": "3"})
    assert load({"partial_after_s": "0.3", "flush_interval_s": "0.1"}).partial_after_s == 0.3


def test_several_addresses_come_with_commas_or_one_by_one() -> None:
    both = ["127.0.0.1:1", "[::1]:0"]
    assert load({"listen": "127.0.0.1:1, [::1]:0"}).listen == both
    assert load({"listen": both}).listen == both
    assert load({"listen": ["127.0.0.1:1,[::1]:0"]}).listen == both


def test_lists_and_tables_of_the_file_are_read_as_the_text_of_a_flag(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(
        'listen = ["127.0.0.1:1", "127.0.0.1:2"]\nbackends = ["csv", "memory"]\nrecord_ranks = [0, "8-15"]\n'
        '[reporters]\nlr = "primary"\n"eval/*" = "primary"\n'
    )
    settings = load({"config": path})
    assert settings.listen == ["127.0.0.1:1", "127.0.0.1:2"]
    assert settings.backend_names == ["csv", "memory"]
    assert settings.record_ranks == "0,8-15"
    assert settings.reporters == "lr=primary,eval/*=primary"


@pytest.mark.parametrize(
    ("backends", "names"),
    [("csv", ["csv"]), (" csv, CSV,,memory ", ["csv", "memory"]), ("none", []), ("", [])],
)
def test_backends_are_named_once_each(backends: str, names: list[str]) -> None:
    assert load({"backends": backends}).backend_names == names


def test_paths_are_absolute_from_where_the_command_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    settings = load({"outdir": "runs/../out", "state_dir": "~/state"})
    assert settings.output_directory == tmp_path / "out"
    assert settings.state_directory == Path("/home/someone/state")
    assert load({}).output_directory == tmp_path / "tracker-runs"


def test_the_service_managers_state_directory_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/tracker:/var/lib/other")
    assert load({}).state_directory == Path("/var/lib/tracker")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load({}).primary_rank = 3  # type: ignore[misc]


def test_every_setting_is_described_with_value_and_source() -> None:
    rows = {row.name: row for row in describe(load({"primary_rank": "2", "outdir": "/out"}))}
    assert list(rows) == list(Settings.model_fields)
    assert (rows["primary_rank"].value, rows["primary_rank"].source) == ("2", "flag --primary-rank")
    assert (rows["listen"].value, rows["listen"].source) == ('["127.0.0.1:0"]', "default")
    assert rows["outdir"].value == '"/out"'
    assert rows["state_dir"].value is None


def test_passwords_in_urls_are_masked_when_shown() -> None:
    assert shown("backends", "https://me:pa55@host/x") == '"https://***@host/x"'


def test_what_is_shown_is_toml() -> None:
    assert shown("outdir", Path('/a "b"\\c\n')) == '"/a \\"b\\"\\\\c\\u000A"'
