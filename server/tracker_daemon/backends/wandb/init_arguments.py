"""Arguments of ``wandb.init``, made of a run's description.

The ranks send the selectors. The SDK itself reads keys and addresses from the daemon's environment. W&B
would also record its own process (program, host, user, git, arguments); those values are replaced by the
training script's, or left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any

from tracker_daemon.backends.base import RunDescription
from tracker_daemon.errors import BackendRefused
from tracker_daemon.version import VERSION
from tracker_protocol import limits
from tracker_protocol.script_facts import wandb_config
from tracker_protocol.wandb_id import wandb_id as accepted_id

_COPIED = ("entity", "group", "job_type", "notes")
_STARTING_POINTS = ("fork_from", "resume_from")


class Mode(str, Enum):
    """The destination of a run's data: the server, files, or none."""

    ONLINE = "online"
    OFFLINE = "offline"
    SHARED = "shared"
    DISABLED = "disabled"

    @property
    def remote(self) -> bool:
        """True if the mode needs the server."""
        return self in {Mode.ONLINE, Mode.SHARED}


def mode_of(run: RunDescription) -> Mode:
    """Return the run's mode: the script's, else the daemon's ``WANDB_MODE``, else online.

    Raises:
        BackendRefused: W&B has no such mode.
    """
    wanted = str(run.options.get("mode") or os.environ.get("WANDB_MODE") or Mode.ONLINE.value).strip().lower()
    wanted = {"dryrun": "offline", "run": "online"}.get(wanted, wanted)
    try:
        return Mode(wanted)
    except ValueError as error:
        known = ", ".join(mode.value for mode in Mode)
        raise BackendRefused(f"W&B has no mode {wanted!r}; there are {known} and dryrun") from error


def wandb_id(run: RunDescription) -> str:
    """Return the W&B run's id: the script's, else the run's own; changed if W&B does not accept it."""
    return accepted_id(str(run.options.get("id") or run.run_id))


def known_handles(run: RunDescription) -> dict[str, str]:
    """Return the handles that are known before W&B is asked, and stay so."""
    options = run.options
    found = {
        "id": wandb_id(run),
        "name": options.get("name") or run.name,
        "project": options.get("project") or run.project,
        **{name: options.get(name) for name in ("entity", "group", "job_type")},
    }
    return {name: str(value) for name, value in found.items() if value}


def init_arguments(run: RunDescription, mode: Mode, *, begun: bool) -> dict[str, Any]:
    """Return the keyword arguments for ``wandb.init``, except ``settings``.

    A run that was ``begun`` before is always continued, whatever the script's options are.
    """
    options = run.options
    arguments = {name: options[name] for name in _COPIED if options.get(name)}
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
        arguments |= _resume_arguments(options, begun=begun)
    return arguments


def settings_arguments(run: RunDescription, mode: Mode) -> dict[str, Any]:
    """Return the keyword arguments for ``wandb.Settings``."""
    script = run.environment
    settings: dict[str, Any] = {
        "console": "off",
        "silent": True,
        "use_dot_wandb": False,
        "save_code": False,
        "disable_git": True,  # W&B would record the git state of the daemon's directory
        "disable_job_creation": True,
        "x_disable_stats": True,
        "x_save_requirements": False,
        "x_transaction_log_flush_interval": limits.WANDB_LOG_FLUSH_S,
        "x_history_value_encoding": "json",
        "stop_on_fatal_error": True,
        "init_timeout": limits.WANDB_INIT_TIMEOUT_S,
        "finish_timeout": limits.WANDB_FINISH_TIMEOUT_S,
        "finish_timeout_raises": True,
        "program": script.get("program", "-"),
        "program_relpath": _relative_program(script),
        "host": script.get("host"),
        "username": script.get("user"),
        "git_commit": script.get("git_commit"),
        "git_remote_url": script.get("git_remote"),
        "sweep_id": run.options.get("sweep_id"),
        "x_label": "tracker-daemon" if mode is Mode.SHARED else None,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _resume_arguments(options: Mapping[str, Any], *, begun: bool) -> dict[str, Any]:
    start = next((name for name in _STARTING_POINTS if options.get(name)), None)
    if start and not begun:
        return {start: options[start]}
    wanted = str(options.get("resume") or "").lower()
    # W&B's own default begins a run of that id again, and overwrites its rows.
    return {"resume": wanted if wanted in {"must", "never"} and not begun else "allow"}


def _tags(tags: object) -> list[str] | None:
    if isinstance(tags, str):
        tags = [tag.strip() for tag in tags.split(",")]
    if not isinstance(tags, Sequence):
        return None
    return [str(tag) for tag in tags if str(tag)] or None


def _first_config(run: RunDescription) -> dict[str, Any]:
    begun_s = run.created_ns / 1e9 if run.created_ns else time.time()
    described = wandb_config(run.environment, datetime.fromtimestamp(begun_s, tz=timezone.utc))
    given = run.options.get("config")
    return {**described, "tracker_version": VERSION, **(given if isinstance(given, dict) else {})}


def _relative_program(script: Mapping[str, str]) -> str | None:
    program, directory = script.get("program"), script.get("working_directory")
    if not program or program.startswith("-"):
        return None
    path = Path(program)
    return str(path.relative_to(directory)) if directory and path.is_relative_to(directory) else path.name
