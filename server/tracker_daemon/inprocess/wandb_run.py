"""Begins a W&B run in the script's process; if the server cannot be used, the run is recorded offline."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from tracker_client.backends.adopted_wandb import opened_by_backends, own_run
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.wandb.init_arguments import Mode, init_arguments, mode_of
from tracker_daemon.backends.wandb.rows import STEP_COLUMN
from tracker_daemon.backends.wandb.session import load_sdk, log_in
from tracker_daemon.errors import BackendRefused
from tracker_daemon.inprocess.description import describe_run, wandb_options

logger = logging.getLogger("tracker_daemon")

_NORMALISED = frozenset({"mode", "tags"})
_OFFLINE_SUFFIX = "-offline"
"""The SDK's process keeps the id of a run that it could not begin, so the offline run has another one."""


def begin_run(
    project_name: str | None,
    config: Mapping[str, Any],
    outdir: str | os.PathLike[str] | None,
    rank: int,
    run_id: str | None,
    given: Mapping[str, Any],
) -> Any:
    """Begin a run; ``given`` are arguments of ``wandb.init``. Return the SDK's own run.

    A run that the script itself has opened by ``wandb.init`` is used as it is, with this configuration added.
    Without a key, or if the server does not accept the run, the run is recorded offline, with a warning.

    Raises:
        BackendRefused: the package is not installed or too old, or W&B has no such mode.
    """
    options = wandb_options(given)
    options["config"] = dict(config)
    run = describe_run(project_name, outdir, rank, run_id=run_id, options=options)
    mode, wandb = mode_of(run), load_sdk()
    if (adopted := own_run(sys.modules)) is not None:
        adopted.config.update(init_arguments(run, mode, begun=False)["config"], allow_val_change=True)
        return adopted
    _make_directory(run)
    begun = _begun(wandb, run, mode, given)
    begun.define_metric("*", step_metric=STEP_COLUMN)
    opened_by_backends.add(begun)
    return begun


def _begun(wandb: Any, run: RunDescription, mode: Mode, given: Mapping[str, Any]) -> Any:
    own = {name: value for name, value in given.items() if name not in _NORMALISED}
    if not mode.remote:
        return wandb.init(**_arguments(wandb, run, mode) | own)
    try:
        log_in(wandb)
    except BackendRefused as error:
        return _begin_offline(wandb, run, own, {}, str(error))
    try:
        return wandb.init(**_arguments(wandb, run, mode) | own)
    except (wandb.errors.Error, TimeoutError) as error:
        arguments = _arguments(wandb, run, mode) | own
        changed = {"id": f"{arguments['id']}{_OFFLINE_SUFFIX}"}
        return _begin_offline(wandb, run, own, changed, f"W&B does not begin the run: {error}")


def _arguments(wandb: Any, run: RunDescription, mode: Mode) -> dict[str, Any]:
    arguments = init_arguments(run, mode, begun=False)
    if wandb.run is None:
        # Without this argument, wandb.log() and the like in the script record to this run.
        del arguments["reinit"]
    return arguments


def _begin_offline(
    wandb: Any, run: RunDescription, own: Mapping[str, Any], changed: Mapping[str, Any], reason: str
) -> Any:
    arguments = _arguments(wandb, run, Mode.OFFLINE) | dict(own)
    begun = wandb.init(**{**arguments, **changed})
    identity = f" --id {shlex.quote(str(arguments['id']))}" if changed else ""
    directory = begun.settings.sync_dir
    logger.warning(
        "%s. The run is recorded offline in %s; upload it after its end with: wandb sync%s %s",
        reason.rstrip("."), directory, identity, shlex.quote(str(directory)),
    )  # fmt: skip
    return begun


def _make_directory(run: RunDescription) -> None:
    try:
        run.outdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning(
            "the directory %s cannot be made (%s); W&B writes to a temporary directory",
            run.outdir, error.strerror or error,
        )  # fmt: skip
