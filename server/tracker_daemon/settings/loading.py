"""Loads the effective settings: a flag overrides the environment, and that overrides the file.

``TRACKER_*`` variables that name no setting belong to the clients and are ignored. An unknown key of the file
is an error, since nothing else would read it.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tracker_daemon.errors import SettingsError
from tracker_daemon.settings.definitions import (
    DEFAULT_ORIGIN,
    Settings,
    flag_of,
    variable_of,
)
from tracker_daemon.settings.directories import absolute
from tracker_daemon.settings.view import shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, slots=True)
class _Layer:
    """One source of settings; ``origin`` gives a setting's name in that source."""

    origin: Callable[[str], str]
    values: Mapping[str, Any]


def load(flags: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Settings:
    """Return the effective settings: the given ``flags`` over environment, file and defaults.

    An empty variable counts as unset. ``defaults`` override those of the settings' class.

    Raises:
        SettingsError: names each unusable setting, its value, its source and what is allowed.
    """
    above = [
        _Layer(lambda name: f"flag {flag_of(name)}", flags),
        _Layer(lambda name: f"environment {variable_of(name)}", _environment()),
    ]
    path = next((layer.values["config"] for layer in above if "config" in layer.values), None)
    layers = above if path is None else [*above, _file(absolute(Path(path)))]
    layers.append(_Layer(lambda _: DEFAULT_ORIGIN, defaults or {}))
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in reversed(layers):
        merged.update(layer.values)
        origins.update({name: layer.origin(name) for name in layer.values})
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise SettingsError(_explained(error, origins)) from None
    settings.remember_origins(origins)
    return settings


def _environment() -> dict[str, Any]:
    """Return the settings that the environment holds; a variable's name may be in capitals or not."""
    given = {name.lower(): value for name, value in os.environ.items() if value}
    variables = {name: variable_of(name).lower() for name in Settings.model_fields}
    return {name: given[variable] for name, variable in variables.items() if variable in given}


def _file(path: Path) -> _Layer:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"the settings file {path} cannot be read: {error.strerror}"
        raise SettingsError(msg) from error
    except ValueError as error:  # also for text that is not UTF-8
        msg = f"the settings file {path} is not valid TOML: {error}"
        raise SettingsError(msg) from error
    problems = [_unknown(key) for key in table if key not in Settings.model_fields or key == "config"]
    if problems:
        msg = f"the settings file {path} has {'; '.join(problems)}"
        raise SettingsError(msg)
    return _Layer(lambda _: f"file {path}", table)


def _unknown(key: str) -> str:
    """Describe an unknown key without its value, which may be a misplaced secret."""
    if key == "config":
        return "the setting 'config', which names a settings file and cannot be set in one"
    known = [name for name in Settings.model_fields if name != "config"]
    near = difflib.get_close_matches(key.lower().replace("-", "_"), known, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"the unknown setting {key!r} ({advice})"


def _explained(error: ValidationError, origins: Mapping[str, str]) -> str:
    return "; ".join(_problem(detail, origins) for detail in error.errors(include_url=False))


def _problem(detail: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    reason = str(detail["msg"]).removeprefix("Value error, ")
    if not detail["loc"]:  # a rule over several settings names them itself
        return reason
    name = str(detail["loc"][0])
    if name not in Settings.model_fields:
        return f"there is no setting {name!r}"
    return f"{name} = {shown(name, detail['input'])} ({origins.get(name, DEFAULT_ORIGIN)}): {reason}"
