"""From a run's description to what ``wandb.init`` is given.

The selectors come from the ranks; keys and addresses from the daemon's own environment, where the SDK
reads them itself. What W&B would find out about its own process (program, host, user, git, arguments)
is replaced by what the training script said of its own, or left out.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from tracker_daemon.backends.base import RunDescription
from tracker_daemon.errors import BackendRefused
from tracker_daemon.version import VERSION
from tracker_protocol import limits

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PASSED_ON = ("entity", "group", "job_type", "notes")
_BEGINNINGS = ("fork_from", "resume_from")
_DESCRIBED = ("host", "torch_version", "working_directory")
_CONFIG_NAMES = {"host": "hostname"}


class Mode(str, Enum):
    """Where a run's data goes: to the server, to files, or nowhere."""

    ONLINE = "online"
    OFFLINE = "offline"
    SHARED = "shared"
    DISABLED = "disabled"

    @property
    def remote(self) -> bool:
        """Whether it needs the server."""
        return self in {Mode.ONLINE, Mode.SHARED}


def mode_of(run: RunDescription) -> Mode:
    """The run's mode: the script's, else the daemon's ``WANDB_MODE``, else online.

    Raises:
        BackendRefused: there is no such mode.
    """
    wanted = str(run.options.get("mode") or os.environ.get("WANDB_MODE") or Mode.ONLINE.value).strip().lower()
    wanted = {"dryrun": "offline", "run": "online"}.get(wanted, wanted)
    try:
        return Mode(wanted)
    except ValueError as error:
        known = ", ".join(mode.value for mode in Mode)
        raise BackendRefused(f"W&B has no mode {wanted!r}; there are {known} and dryrun") from error


def wandb_id(run: RunDescription) -> str:
    """The W&B run's id: the script's, else the run's own, made fit for W&B where it is not."""
    wanted = str(run.options.get("id") or run.run_id)
    if _ID.fullmatch(wanted):
        return wanted
    kept = re.sub(r"[^A-Za-z0-9_.-]", "-", wanted)[: limits.WANDB_ID_KEPT_CHARACTERS].lstrip("_.-")
    return f"{kept}-{hashlib.sha256(wanted.encode(errors='backslashreplace')).hexdigest()[:12]}".lstrip("-")


def init_arguments(run: RunDescription, mode: Mode, *, begun: bool) -> dict[str, Any]:
    """Keyword arguments for ``wandb.init``, all but ``settings``.

    ``begun``: this run was begun before, so that it is to be continued whatever the script said.
    """
    options = run.options
    arguments = {name: options[name] for name in _PASSED_ON if options.get(name)}
    arguments |= {
        "id": wandb_id(run),
        "project": options.get("project") or run.project or None,
        "name": options.get("name") or run.name or None,
        "tags": _tags(options.get("tags")),
        "dir": str(run.outdir),
        "mode": mode.value,
        "reinit": "create_new",
        "config": None if begun else _first_config(run),
    }
    if mode is Mode.ONLINE:
        arguments |= _continuation(options, begun=begun)
    return arguments


def settings_arguments(run: RunDescription, mode: Mode) -> dict[str, Any]:
    """Keyword arguments for ``wandb.Settings``."""
    told = run.environment
    settings: dict[str, Any] = {
        "console": "off",
        "silent": True,
        "use_dot_wandb": False,
        "save_code": False,
        "disable_git": True,  # it would be the git state of the daemon's directory
        "disable_job_creation": True,
        "x_disable_stats": True,
        "x_save_requirements": False,
        "x_transaction_log_flush_interval": limits.WANDB_LOG_FLUSH_S,
        "x_history_value_encoding": "json",
        "stop_on_fatal_error": True,
        "init_timeout": limits.WANDB_INIT_TIMEOUT_S,
        "finish_timeout": limits.WANDB_FINISH_TIMEOUT_S,
        "finish_timeout_raises": True,
        "program": told.get("program", "-"),
        "program_relpath": _relative_program(told),
        "host": told.get("host"),
        "username": told.get("user"),
        "git_commit": told.get("git_commit"),
        "git_remote_url": told.get("git_remote"),
        "sweep_id": run.options.get("sweep_id"),
        "x_label": "tracker-daemon" if mode is Mode.SHARED else None,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _continuation(options: Mapping[str, Any], *, begun: bool) -> dict[str, Any]:
    beginning = next((name for name in _BEGINNINGS if options.get(name)), None)
    if beginning and not begun:
        return {beginning: options[beginning]}
    wanted = str(options.get("resume") or "").lower()
    # W&B's own default lets a run of that id begin anew, over the rows that it has.
    return {"resume": wanted if wanted in {"must", "never"} and not begun else "allow"}


def _tags(tags: object) -> list[str] | None:
    if isinstance(tags, str):
        tags = [tag.strip() for tag in tags.split(",")]
    if not isinstance(tags, Sequence):
        return None
    return [str(tag) for tag in tags if str(tag)] or None


def _first_config(run: RunDescription) -> dict[str, Any]:
    described = {
        _CONFIG_NAMES.get(name, name): run.environment[name] for name in _DESCRIBED if name in run.environment
    }
    given = run.options.get("config")
    return {**described, "tracker_version": VERSION, **(given if isinstance(given, dict) else {})}


def _relative_program(told: Mapping[str, str]) -> str | None:
    program, directory = told.get("program"), told.get("working_directory")
    if not program or program.startswith("-"):
        return None
    path = Path(program)
    return str(path.relative_to(directory)) if directory and path.is_relative_to(directory) else path.name
