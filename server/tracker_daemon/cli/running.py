"""``run``: a daemon for one command."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tracker_daemon.cli.options import as_arguments, check_backends, with_settings
from tracker_daemon.cli.ourselves import ourselves
from tracker_daemon.endpoints.endpoint_file import ENDPOINT_FILE_NAME, EndpointInfo
from tracker_daemon.endpoints.locate import EndpointChoice
from tracker_daemon.errors import SettingsError
from tracker_daemon.launch.attended_daemon import DaemonPlace
from tracker_daemon.launch.daemon_process import HAS_TERMINAL_OPTION, LAYOUT_OPTION, UNTIL_STDIN_CLOSES
from tracker_daemon.launch.environment import (
    ENDPOINT_FILE_VARIABLE,
    ENDPOINT_VARIABLE,
    LAUNCH_ID_VARIABLE,
)
from tracker_daemon.launch.joining import Joining
from tracker_daemon.launch.launcher import Launch, Launcher
from tracker_daemon.launch.log_tail import LOG_FILE_NAME
from tracker_daemon.launch.node_rank import further_node
from tracker_daemon.settings.definitions import Settings, variable_of
from tracker_daemon.settings.loading import load
from tracker_protocol.run_files import STATE_DIRECTORY

JOIN_HELP = (
    "On a further node of a job: start no daemon; CMD's ranks join the first node's daemon, "
    "host:port (with TRACKER_TOKEN) or its endpoint file."
)
RUN_EXAMPLES = """Examples:

    tracker-daemon run -- torchrun --nproc-per-node 4 train.py

    tracker-daemon run --outdir runs/a --record-ranks 0-3 -- mpiexec -n 8 python train.py

    tracker-daemon run --join node0:7007 -- torchrun --nnodes 2 --node-rank 1 train.py

    tracker-daemon run --upstream node0:7007 -- torchrun --nnodes 2 --node-rank 1 train.py
"""
NO_SECOND_DAEMON = (
    "{} says that this is not the first node of its job, and a job has one daemon: name the first node's "
    "with --join HOST:PORT (there, run has --listen 0.0.0.0:PORT) or --join FILE, its endpoint file; or set "
    "TRACKER_ENDPOINT or TRACKER_ENDPOINT_FILE"
)
JOIN_OR_FORWARD = (
    "--join starts no daemon on this node, --upstream one that forwards; choose either for each node"
)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    # Everything after CMD belongs to CMD, options included.
    app.command(epilog=RUN_EXAMPLES, context_settings={"allow_interspersed_args": False})(with_settings(run))


def run(
    flags: Mapping[str, Any],
    *,
    command: Annotated[
        list[str], typer.Argument(metavar="CMD", help="The command and its arguments, after --.")
    ],
    join: Annotated[str | None, typer.Option("--join", metavar="ENDPOINT", help=JOIN_HELP)] = None,
) -> None:
    """Start a daemon, run CMD with the endpoint in its environment, deliver, exit with CMD's status.

    CMD is anything that runs ranks: mpiexec …, torchrun …, python …. Signals are passed on to it. Ctrl-C
    after CMD's end exits at once; the journal keeps the undelivered data.
    """
    settings = load(flags)
    if settings.upstream is None:
        choice = _daemon_to_join(join)
        if choice is not None:
            raise typer.Exit(Joining(tuple(command), choice, os.environ).run())
    elif join is not None:
        raise SettingsError(JOIN_OR_FORWARD)
    check_backends(settings)
    _leave_outer_launch()
    raise typer.Exit(Launcher(_launch(flags, load(flags), tuple(command))).run())


def _daemon_to_join(given: str | None) -> EndpointChoice | None:
    """Return the first node's daemon, on a further node of a job; None if this node starts its own."""
    evidence = further_node(os.environ)
    if given is None and evidence is not None:
        given = os.environ.get(ENDPOINT_VARIABLE) or os.environ.get(ENDPOINT_FILE_VARIABLE)
        if not given:
            raise SettingsError(NO_SECOND_DAEMON.format(evidence))
    if given is None:
        return None
    is_file = ("/" in given and not given.startswith("unix:")) or Path(given).exists()
    return EndpointChoice(endpoint_file=Path(given)) if is_file else EndpointChoice(endpoint=given)


def _leave_outer_launch() -> None:
    """Remove the endpoint file of an outer ``run`` from the environment: ours must not write there."""
    if LAUNCH_ID_VARIABLE in os.environ:
        os.environ.pop(variable_of("endpoint_file"), None)


def _launch(flags: Mapping[str, Any], settings: Settings, command: tuple[str, ...]) -> Launch:
    outdir = settings.output_directory
    state_dir = settings.state_dir or outdir / STATE_DIRECTORY
    endpoint_file = settings.endpoint_file or state_dir / ENDPOINT_FILE_NAME
    # The daemon reads environment and file itself; only the flags are passed on.
    arguments = dict(flags) | {"outdir": outdir, "state_dir": state_dir, "endpoint_file": endpoint_file}
    if settings.log_format == "auto":
        arguments["log_format"] = "console"  # a person is shown the log's tail
    return Launch(
        command=command,
        daemon_argv=(
            *ourselves(),
            "serve",
            UNTIL_STDIN_CLOSES,
            HAS_TERMINAL_OPTION,
            f"{LAYOUT_OPTION}={settings.launch_layout.value}",
            *as_arguments(arguments),
        ),
        place=DaemonPlace(state_dir, endpoint_file, state_dir / LOG_FILE_NAME),
        drain_timeout_s=settings.drain_timeout_s,
        environ=_environment(settings),
        grace_s=settings.grace_s,
        upstream=None if settings.upstream is None else partial(_root, settings),
    )


def _environment(settings: Settings) -> dict[str, str]:
    """Return the environment for CMD: where the daemon has another output directory, ranks name none."""
    environ, variable = dict(os.environ), variable_of("outdir")
    if environ.get(variable) and settings.upstream is None:
        if settings.origin("outdir") == f"environment {variable}":
            environ[variable] = str(settings.output_directory)
        else:
            del environ[variable]
    return environ


def _root(settings: Settings) -> EndpointInfo:
    from tracker_daemon.upstream.root import root_info  # noqa: PLC0415  grpc, which others spare

    return root_info(settings)
