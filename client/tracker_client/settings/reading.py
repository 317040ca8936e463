"""The client's settings, from the arguments of ``setup_tracker`` and from the environment.

An argument wins over its variables. Of several variables the first one that is set and not empty wins:

==========================  ========================================================================
setting                     variables
==========================  ========================================================================
endpoint                    TRACKER_ENDPOINT, TRACKER_ENDPOINT_FILE, else a daemon of the launch's own
                            in the output directory (``tracker_client.endpoints.embedded``)
outdir                      TRACKER_OUTDIR, else the daemon's setting, else ``tracker-runs`` in the working
                            directory (``tracker_client.settings.output``)
token                       TRACKER_TOKEN, TRACKER_TOKEN_FILE, else the endpoint file's
TLS root certificate        TRACKER_TLS_ROOT (a PEM file), else the endpoint file's
project                     WB_PROJECT, WANDB_PROJECT, WB_PROJECT_NAME, else the script's name
name                        TRACKER_RUN_NAME, WANDB_NAME
run_id                      TRACKER_RUN_ID
backends                    TRACKER_BACKENDS, EZPZ_TRACKER_BACKENDS, EZPZ_TRACKERS
rank, world_size,           TRACKER_RANK, TRACKER_WORLD_SIZE, TRACKER_LOCAL_RANK, else the launcher's
local_rank                  (``tracker_client.identity.rank``)
launch_id                   TRACKER_LAUNCH_ID, else the launcher's or the scheduler's
                            (``tracker_client.identity.launch``)
buffer_bytes                TRACKER_BUFFER_BYTES
handle_timeout_s            TRACKER_HANDLE_TIMEOUT_S
exit_timeout_s              TRACKER_EXIT_TIMEOUT_S
strict                      TRACKER_STRICT
W&B's selectors             WANDB_ENTITY, WANDB_RUN_GROUP, WANDB_NAME, WANDB_TAGS, WANDB_NOTES,
                            WANDB_JOB_TYPE, WANDB_RUN_ID, WANDB_RESUME, WANDB_MODE, WANDB_SWEEP_ID;
                            WANDB_DISABLED wins over arguments too (``tracker_client.settings.selectors``)
MLflow's selectors          MLFLOW_EXPERIMENT_NAME, MLFLOW_RUN_NAME
user                        LOGNAME, USER, LNAME, USERNAME, else the system's
cluster                     NERSC_HOST, LMOD_SYSTEM_NAME, SLURM_CLUSTER_NAME
scheduler                   PBS_JOBID, SLURM_JOB_ID, LSB_JOBID, FLUX_JOB_ID, COBALT_JOBID
==========================  ========================================================================

Keys, passwords and addresses of backends are never read here: only the daemon reads them.

``primary_rank``, ``record_ranks``, ``item_ranks`` and the rules by metric have no variable
here: if an argument is not given, the daemon's setting applies.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracker_client.backends.adopted_wandb import with_own_run
from tracker_client.backends.base import registered_backends
from tracker_client.backends.built_in import RunArguments
from tracker_client.backends.script_classes import ScriptClasses, script_classes
from tracker_client.endpoints.embedded import embedded_endpoint
from tracker_client.endpoints.endpoint import EndpointSource
from tracker_client.identity.launch import agent, restarts
from tracker_client.identity.mark import Mark, find_mark, mark_process
from tracker_client.identity.process import identify
from tracker_client.identity.rank import RankInfo, RankOverrides
from tracker_client.identity.script_metadata import Script, describe
from tracker_client.identity.workers import Standing, standing_of
from tracker_client.settings.configured_endpoint import ENDPOINT_VARIABLES, endpoint_source
from tracker_client.settings.metric_options import METRIC_OPTIONS, MetricOptions, read_metric_options
from tracker_client.settings.output import OutputSettings, read_output_directory, working_directory
from tracker_client.settings.selectors import ARGUMENTS, Selectors, read_selectors
from tracker_client.settings.single_values import (
    buffer_bytes,
    exit_timeout_s,
    first_given,
    flag,
    handle_timeout_s,
    primary_rank_of,
    rank_set,
    run_key_of,
)
from tracker_protocol.backend_names import split_backend_names
from tracker_protocol.run_files import DEFAULT_OUTPUT_DIRECTORY

INPROCESS = "inprocess"
RUN_ID_BYTES = 4
RUN_NAME_VARIABLES = ("TRACKER_RUN_NAME", "WANDB_NAME")
PROJECT_VARIABLES = ("WB_PROJECT", "WANDB_PROJECT", "WB_PROJECT_NAME")
BACKENDS_VARIABLES = ("TRACKER_BACKENDS", "EZPZ_TRACKER_BACKENDS", "EZPZ_TRACKERS")
KNOWN_OPTIONS = frozenset(
    (
        "name", "primary_rank", "record_ranks", "item_ranks", "world_size", "local_rank", "launch_id",
        "token", "buffer_bytes", "handle_timeout", "exit_timeout", "strict", *METRIC_OPTIONS,
    )
)  # fmt: skip

Backends = str | Sequence[str] | None


@dataclass(frozen=True)
class ClientSettings:
    """The settings of one tracker. Times are in seconds."""

    source: EndpointSource
    project: str
    name: str
    run_id: str
    run_id_is_shared: bool
    backends: str | None
    outdir: str | None
    primary_rank: int | None
    record_ranks: str | None
    rank: RankInfo
    launch_key: str
    restarts: int
    host: str
    pid: int
    working_directory: str
    buffer_bytes: int
    handle_timeout_s: float
    exit_timeout_s: float
    strict: bool
    backend_options: str | None
    script_classes: ScriptClasses
    environment: str
    warnings: tuple[str, ...] = ()
    item_ranks: str | None = None
    metrics: MetricOptions = field(default_factory=MetricOptions)
    is_child: bool = False
    """True if this process is a child of a rank, and so a launch of its own."""
    agent: str = ""
    run_key: str = ""
    default_outdir: str | None = None
    """The output directory of a launch that names none; None for the usual one."""


def backends_of(backends: Backends, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the names of the backends, separated by commas.

    Returns None if neither the argument nor a variable names backends, and "none" if no backend is wanted.
    """
    environ = os.environ if environ is None else environ
    if backends is None:
        for variable in BACKENDS_VARIABLES:
            if variable in environ:
                backends = environ[variable]
                break
        else:
            return None
    return ",".join(split_backend_names(backends)) or "none"


def read_settings(
    *,
    project_name: str | None = None,
    backends: str | None = None,
    outdir: str | os.PathLike[str] | None = None,
    rank: int | None = None,
    run_id: str | None = None,
    run_key: str | None = None,
    endpoint: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    modules: Mapping[str, Any] | None = None,
    default_outdir: str | None = None,
) -> ClientSettings:
    """Read all settings of a tracker that sends to a daemon.

    The arguments are those of ``setup_tracker``; ``options`` are its keyword arguments. ``environ`` and
    ``modules`` default to this process's environment and imported modules. ``default_outdir`` is the output
    directory if none is named; None for the usual one.

    Raises:
        SettingsError: a value cannot be used.
        EndpointError: the given endpoint is invalid; or none is given, and no daemon can be started here.
        RankUnknown: several processes run, and the rank of this one cannot be found.
    """
    environ = os.environ if environ is None else environ
    modules = sys.modules if modules is None else modules
    options = options or {}
    overrides = RankOverrides(rank, options.get("world_size"), options.get("local_rank"))
    mark = find_mark(environ, os.getpid())
    identity = identify(environ, modules, os.getpid(), overrides, options.get("launch_id"), mark)
    environ, info, key = identity.environ, identity.rank, identity.launch_key
    host, directory = socket.gethostname(), working_directory(environ)
    facts = describe(Script(environ, modules, sys.argv, info, host, directory))
    chosen = _read_backends(backends, options, environ, modules, info, facts)
    source = endpoint_source(environ, endpoint, options.get("token"))
    output = OutputSettings.read(outdir, environ, default_outdir, needed=source is None)
    return ClientSettings(
        source=embedded_endpoint(environ, output.path, info, key) if source is None else source,
        project=project_of(project_name, environ),
        name=first_given(environ, RUN_NAME_VARIABLES, options.get("name")) or "",
        run_id=first_given(environ, ("TRACKER_RUN_ID",), run_id) or "",
        run_id_is_shared=not run_id,
        backends=backends,
        outdir=output.outdir,
        default_outdir=output.default_outdir,
        primary_rank=primary_rank_of(options.get("primary_rank")),
        record_ranks=rank_set("record_ranks", options.get("record_ranks")),
        item_ranks=rank_set("item_ranks", options.get("item_ranks")),
        metrics=read_metric_options(options),
        rank=info,
        launch_key=key,
        restarts=restarts(environ),
        agent=agent(environ),
        run_key=run_key_of(run_key),
        host=host,
        pid=os.getpid(),
        working_directory=directory,
        buffer_bytes=buffer_bytes(environ, options.get("buffer_bytes")),
        handle_timeout_s=handle_timeout_s(environ, options),
        exit_timeout_s=exit_timeout_s(environ, options),
        strict=flag(environ, "TRACKER_STRICT", options.get("strict")),
        backend_options=chosen.selectors.document,
        script_classes=chosen.classes,
        environment=facts,
        warnings=(
            *identity.warnings,
            *([identity.shared_daemon_warning] if source and identity.shared_daemon_warning else ()),
            *chosen.selectors.warnings,
            *_unknown_warnings(chosen.unknown),
        ),
        is_child=identity.is_child,
    )


@dataclass(frozen=True)
class _ChosenBackends:
    """The script's classes, the backends' selectors, and the options that nobody knows."""

    classes: ScriptClasses
    selectors: Selectors
    unknown: list[str]


def _read_backends(
    backends: str | None,
    options: Mapping[str, Any],
    environ: Mapping[str, str],
    modules: Mapping[str, Any],
    info: RankInfo,
    facts: str,
) -> _ChosenBackends:
    """Read what concerns backends; ``facts`` describe the script, as JSON."""
    arguments = backends_arguments(options)
    classes = script_classes(backends, registered_backends(), arguments)
    if info.rank == (options.get("primary_rank") or 0):
        classes = with_own_run(classes, backends, arguments, modules, json.loads(facts))
    others = {name: value for name, value in arguments.items() if name not in classes.by_name}
    selectors = read_selectors(environ, others, backends)
    unknown = set(options) - KNOWN_OPTIONS - selectors.argument_names - classes.argument_names
    return _ChosenBackends(classes, selectors, sorted(unknown))


def calls_of_parent(rank: int | None) -> str | None:
    """Return the address of the parent's count of calls if this call of ``setup_tracker`` is the parent's.

    That is so in a ``multiprocessing`` worker that imports the script's main module again. Otherwise None is
    returned. ``rank`` is the argument of ``setup_tracker``.
    """
    mark = find_mark(os.environ, os.getpid())
    if standing_of(mark, os.environ, sys.modules, os.getpid(), rank) is not Standing.COPY:
        return None
    return "" if mark is None else mark.calls


def mark_as_set_up(settings: ClientSettings, calls: str) -> None:
    """Mark this process as one with a tracker, for its child processes (TRACKER_SET_UP_BY).

    ``calls`` is the address of the count of the tracker's calls in other processes.
    """
    mark = Mark.new(
        os.environ,
        settings.pid,
        rank=settings.rank.rank,
        launch_key=settings.launch_key,
        is_child=settings.is_child,
        calls=calls,
    )
    mark_process(os.environ, mark)


def is_inprocess(endpoint: str | os.PathLike[str] | None, environ: Mapping[str, str] | None = None) -> bool:
    """Return True if the endpoint is "inprocess", from the argument or a variable."""
    environ = os.environ if environ is None else environ
    if endpoint is None:
        endpoint = first_given(environ, ENDPOINT_VARIABLES, None)
    return endpoint == INPROCESS


def read_run_arguments(
    project_name: str | None,
    config: Any,
    outdir: str | os.PathLike[str] | None,
    rank: int | None,
    run_id: str | None,
    options: Mapping[str, Any],
    default_outdir: str | None = None,
) -> RunArguments:
    """Read what every backend of a run in this process is given.

    Raises:
        SettingsError: a value cannot be used.
        RankUnknown: several processes run, and the rank of this one cannot be found.
    """
    overrides = RankOverrides(rank, options.get("world_size"), options.get("local_rank"))
    mark = find_mark(os.environ, os.getpid())
    identity = identify(os.environ, sys.modules, os.getpid(), overrides, mark=mark)
    environ, info = identity.environ, identity.rank
    given = first_given(environ, ("TRACKER_RUN_ID",), run_id)
    run_id = given or secrets.token_hex(RUN_ID_BYTES)
    output = read_output_directory(outdir, environ, default_outdir or DEFAULT_OUTPUT_DIRECTORY)
    return RunArguments(
        project_of(project_name, environ), config, output.path, info.rank, run_id,
        continues=given is not None,
        name=first_given(environ, RUN_NAME_VARIABLES, options.get("name")) or "",
        outdir_is_named=output.named or default_outdir is not None,
    )  # fmt: skip


def backends_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments that concern backends; ``name`` concerns both backends and client."""
    own = KNOWN_OPTIONS - {"name"}
    return {name: value for name, value in options.items() if name not in own}


def project_of(project_name: str | None, environ: Mapping[str, str]) -> str:
    """Return the project: the argument, else a variable of the environment, else the script's name."""
    return given_project(project_name, environ) or script_name(sys.argv)


def given_project(project_name: str | None, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the project: the argument, else a variable of the environment; None if neither gives it."""
    return first_given(os.environ if environ is None else environ, PROJECT_VARIABLES, project_name)


def script_name(argv: Sequence[str]) -> str:
    """Derive a project's name from ``argv``; "tracker" if there is no script's file."""
    path = Path(argv[0] if argv else "")
    stem = path.parent.name if path.stem == "__main__" else path.stem
    return stem if stem and stem != "-c" else "tracker"


def _unknown_warnings(unknown: list[str]) -> tuple[str, ...]:
    if not unknown:
        return ()
    known = sorted(KNOWN_OPTIONS.union(*ARGUMENTS.values()))
    warning = (
        f"setup_tracker does not know {', '.join(unknown)}; it knows {', '.join(known)}, and for each "
        "backend that is named a dict of its own options, such as wandb={...}"
    )
    return (warning,)
