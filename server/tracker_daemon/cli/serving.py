"""``serve`` and ``run``: a daemon in the foreground, and a daemon for one command."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from tracker_daemon import logs
from tracker_daemon.cli.options import as_arguments, with_settings
from tracker_daemon.cli.ourselves import ourselves
from tracker_daemon.delivery.locations import TELL_OPTION, log_location, print_location
from tracker_daemon.endpoints.endpoint_file import ENDPOINT_FILE_NAME, EndpointInfo
from tracker_daemon.endpoints.locate import RUN_STATE_DIR_NAME, EndpointChoice
from tracker_daemon.errors import SettingsError
from tracker_daemon.launch.attended_daemon import DaemonPlace
from tracker_daemon.launch.daemon_process import LAUNCH_KEY_OPTION, UNTIL_STDIN_CLOSES, end_when_stdin_closes
from tracker_daemon.launch.detached import READY_FD_OPTION, readiness_reporter
from tracker_daemon.launch.environment import (
    ENDPOINT_FILE_VARIABLE,
    ENDPOINT_VARIABLE,
    LAUNCH_ID_VARIABLE,
)
from tracker_daemon.launch.joining import Joining
from tracker_daemon.launch.launcher import Launch, Launcher
from tracker_daemon.launch.node_rank import further_node
from tracker_daemon.settings.definitions import Settings, variable_of
from tracker_daemon.settings.loading import load

LOG_FILE_NAME = "daemon.log"
SERVE_EXAMPLES = """Examples:

    tracker-daemon serve --listen 0.0.0.0:50051 --endpoint-file ~/tracker.json

    tracker-daemon serve --config tracker.toml --backends csv
"""
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
    """Add the commands to the application."""
    app.command(epilog=SERVE_EXAMPLES)(with_settings(serve))
    # Everything after CMD belongs to CMD, options included.
    app.command(epilog=RUN_EXAMPLES, context_settings={"allow_interspersed_args": False})(with_settings(run))


def serve(
    flags: Mapping[str, Any],
    *,
    until_stdin_closes: Annotated[bool, typer.Option(UNTIL_STDIN_CLOSES, hidden=True)] = False,
    tell: Annotated[bool, typer.Option(TELL_OPTION, hidden=True)] = False,
    ready_fd: Annotated[int | None, typer.Option(READY_FD_OPTION, hidden=True)] = None,
    embedded: Annotated[Path | None, typer.Option(hidden=True)] = None,
    launch_key: Annotated[str, typer.Option(LAUNCH_KEY_OPTION, hidden=True)] = "",
    several_hosts: Annotated[bool, typer.Option("--several-hosts", hidden=True)] = False,
) -> None:
    """Run a daemon in the foreground until SIGTERM; many runs at once and one after another."""
    if embedded is not None:
        _serve_embedded(flags, embedded, launch_key, several_hosts=several_hosts)
    settings = load(flags)
    logs.configure(settings.log_level, settings.log_format)
    if until_stdin_closes:
        # The daemon lives as long as its command, even if the command logs nothing.
        settings = settings.model_copy(update={"idle_timeout_s": None, "orphan_timeout_s": None})
        end_when_stdin_closes()
    from tracker_daemon import daemon  # noqa: PLC0415  numpy and grpc, which the other commands spare

    on_ready = None if ready_fd is None else readiness_reporter(ready_fd)
    on_located = print_location if tell else log_location
    raise typer.Exit(daemon.serve(settings, on_ready=on_ready, launch_id=launch_key, on_located=on_located))


def _serve_embedded(
    flags: Mapping[str, Any], file: Path, launch_key: str, *, several_hosts: bool
) -> NoReturn:
    """Serve as a rank's child (see ``tracker_client.endpoints.embedded_daemon``)."""
    from tracker_daemon.launch import embedded  # noqa: PLC0415  numpy and grpc, as below

    launch = embedded.EmbeddedLaunch(file, launch_key, several_hosts)
    settings = load(flags, launch.defaults())
    logs.configure(settings.log_level, "console" if settings.log_format == "auto" else settings.log_format)
    raise typer.Exit(embedded.serve(settings, launch))


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
    if load(flags).upstream is None:
        choice = _daemon_to_join(join)
        if choice is not None:
            raise typer.Exit(Joining(tuple(command), choice, os.environ).run())
    elif join is not None:
        raise SettingsError(JOIN_OR_FORWARD)
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
    state_dir = settings.state_dir or outdir / RUN_STATE_DIR_NAME
    endpoint_file = settings.endpoint_file or state_dir / ENDPOINT_FILE_NAME
    # The daemon reads environment and file itself; only the flags are passed on.
    arguments = dict(flags) | {"outdir": outdir, "state_dir": state_dir, "endpoint_file": endpoint_file}
    if settings.log_format == "auto":
        arguments["log_format"] = "console"  # a person is shown the log's tail
    return Launch(
        command=command,
        daemon_argv=(*ourselves(), "serve", UNTIL_STDIN_CLOSES, TELL_OPTION, *as_arguments(arguments)),
        place=DaemonPlace(state_dir, endpoint_file, state_dir / LOG_FILE_NAME),
        drain_timeout_s=settings.drain_timeout_s,
        environ=os.environ,
        grace_s=settings.grace_s,
        upstream=None if settings.upstream is None else partial(_root, settings),
    )


def _root(settings: Settings) -> EndpointInfo:
    from tracker_daemon.upstream.root import root_info  # noqa: PLC0415  grpc, which others spare

    return root_info(settings)
