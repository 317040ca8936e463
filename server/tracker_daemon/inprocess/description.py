"""Describes the run that an in-process backend is opened for: project, directory, options and the script."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracker_client.identity.rank import RankOverrides, detect_rank
from tracker_client.identity.script_metadata import Script, describe
from tracker_client.settings.output import read_output_directory, working_directory
from tracker_client.settings.reading import RUN_ID_BYTES, project_of
from tracker_client.settings.selectors import MLFLOW, MODES, VARIABLES, WANDB, is_disabled
from tracker_client.values.configuration import read_configuration
from tracker_client.values.refusals import Refusals
from tracker_daemon.backends.base import RunDescription


def rank_of(rank: int | None) -> int:
    """Return this process's rank: the given one, else as found from the launcher.

    Raises:
        RankUnknown: several processes run, and the rank of this one cannot be found.
    """
    return detect_rank(os.environ, sys.modules, RankOverrides(rank)).rank


def directory_of(outdir: str | os.PathLike[str] | None) -> Path:
    """Return the absolute directory; None is the working directory.

    Raises:
        SettingsError: it cannot be a directory here; the message says why.
    """
    output = read_output_directory(outdir or ".", os.environ)
    _ = output.text  # an error if the path is not UTF-8, as with a daemon
    return output.path


def describe_run(
    project_name: str | None,
    outdir: str | os.PathLike[str] | None,
    rank: int,
    *,
    run_id: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> RunDescription:
    """Describe the run as to a daemon's backend; if ``run_id`` is None, with a new id."""
    return RunDescription(
        run_id=run_id or secrets.token_hex(RUN_ID_BYTES),
        project=project_of(project_name, os.environ),
        name="",
        outdir=directory_of(outdir),
        options=options or {},
        environment=_environment(rank),
    )


def wandb_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return W&B's selectors; ``arguments`` win over the environment, WANDB_DISABLED wins over both."""
    options = {**_from_environment(WANDB), **_given(arguments)}
    if is_disabled(os.environ):
        options["mode"] = "disabled"
    elif isinstance(options.get("mode"), str):
        options["mode"] = MODES.get(options["mode"], options["mode"])
    return options


def mlflow_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return MLflow's selectors; ``arguments`` win over the environment."""
    return {**_from_environment(MLFLOW), **_given(arguments)}


def plain_configuration(config: Any, refusals: Refusals) -> dict[str, Any]:
    """Convert ``config`` as for the daemon, secrets masked; refuse the values that are left out."""
    read = read_configuration(config)
    if read is None:
        reason = f"a {type(config).__name__} has no names and values; it is not recorded"
        refusals.refuse("config", reason)
        return {}
    if read.warning:
        refusals.refuse("config", read.warning)
    return read.values


def _from_environment(backend: str) -> dict[str, str]:
    return {
        name: os.environ[variable]
        for variable, name in VARIABLES[backend].items()
        if os.environ.get(variable)
    }


def _given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def _environment(rank: int) -> dict[str, str]:
    info = detect_rank(os.environ, sys.modules, RankOverrides(rank))
    place = working_directory(os.environ)
    script = Script(os.environ, sys.modules, sys.argv, info, socket.gethostname(), place)
    described: dict[str, str] = json.loads(describe(script))
    return described
