"""Single values of settings: each from its argument or else its variable, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tracker_client.errors import SettingsError
from tracker_protocol import limits

HANDLE_TIMEOUT_S = 10.0
EXIT_TIMEOUT_S = 30.0
"""The longest wait for the daemon at the interpreter's exit, if the script did not call ``finish``."""
TIMEOUT_MAX_S = 1e6
"""The upper bound of a timeout; far below the longest timeout of a lock on any platform."""
BUFFER_BYTES_MIN = 1024 * 1024


def first_given(environ: Mapping[str, str], variables: Sequence[str], argument: str | None) -> str | None:
    """Return the argument, else the first variable that is set and not empty; None if there is none."""
    if argument:
        return str(argument)
    return next((environ[name] for name in variables if environ.get(name)), None)


def run_key_of(value: object) -> str:
    """Return the run key, "" if there is none; raises SettingsError unless it is a text."""
    if value is None or isinstance(value, str):
        return value or ""
    raise SettingsError(f"run_key is {value!r}; it must be a text that all ranks of the run share")


def primary_rank_of(value: object) -> int | None:
    """Return the primary rank, None if it is not given; raises SettingsError unless it is a rank."""
    if value is None:
        return None
    if not isinstance(value, int) or not 0 <= value < limits.WORLD_SIZE_MAX:
        raise SettingsError(f"primary_rank is {value!r}; it must be a rank, from 0")
    return int(value)


def rank_set(name: str, value: object) -> str | None:
    """Return the text of a set of ranks, None if it is not given; raises SettingsError for other values."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return ",".join(str(rank) for rank in value)
    raise SettingsError(f"{name} is {value!r}; it must be like '0,8-15', 'all' or a list of ranks")


def buffer_bytes(environ: Mapping[str, str], argument: object) -> int:
    """Return the client's memory for values; raises SettingsError below BUFFER_BYTES_MIN."""
    given = environ.get("TRACKER_BUFFER_BYTES") if argument is None else argument
    if given is None or given == "":
        return limits.CLIENT_BUFFER_BYTES
    try:
        size = int(str(given))
    except ValueError:
        size = 0
    if size < BUFFER_BYTES_MIN:
        raise SettingsError(
            f"buffer_bytes is {given!r}; it must be a number of bytes from {BUFFER_BYTES_MIN}"
        )
    return size


def handle_timeout_s(environ: Mapping[str, str], options: Mapping[str, Any]) -> float:
    """Return the wait for a handle, in seconds; raises SettingsError for anything but seconds."""
    given = options.get("handle_timeout")
    return _seconds(environ, "TRACKER_HANDLE_TIMEOUT_S", given, HANDLE_TIMEOUT_S)


def exit_timeout_s(environ: Mapping[str, str], options: Mapping[str, Any]) -> float:
    """Return the wait at the interpreter's exit; raises SettingsError for anything but seconds."""
    return _seconds(environ, "TRACKER_EXIT_TIMEOUT_S", options.get("exit_timeout"), EXIT_TIMEOUT_S)


def _seconds(environ: Mapping[str, str], variable: str, argument: object, default: float) -> float:
    given = environ.get(variable) if argument is None else argument
    if given is None or given == "":
        return default
    try:
        seconds = float(str(given))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < TIMEOUT_MAX_S:
        raise SettingsError(
            f"{variable.removeprefix('TRACKER_').lower()} is {given!r}; it must be seconds from 0"
        )
    return seconds


def flag(environ: Mapping[str, str], variable: str, argument: object) -> bool:
    """Return a switch, from its argument or variable; raises SettingsError for another text."""
    if argument is not None:
        return bool(argument)
    text = environ.get(variable, "").strip().lower()
    if text in ("", "0", "false", "no", "off"):
        return False
    if text in ("1", "true", "yes", "on"):
        return True
    raise SettingsError(f"{variable} is {text!r}; it must be true or false")
