"""``start``: a daemon in the background, which outlives the script that starts it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from tracker_daemon.cli.options import as_arguments, check_backends, with_settings
from tracker_daemon.cli.ourselves import ourselves
from tracker_daemon.endpoints.endpoint_file import ENDPOINT_FILE_NAME
from tracker_daemon.launch.detached import start_detached
from tracker_daemon.launch.log_tail import LOG_FILE_NAME
from tracker_daemon.settings.loading import load

START_TIMEOUT_S = 60.0
START_EXAMPLES = """Examples:

    tracker-daemon start --daemonize --state-dir ~/tracker --endpoint-file ~/tracker.json

    tracker-daemon stop --state-dir ~/tracker
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=START_EXAMPLES)(with_settings(start))


def start(
    flags: Mapping[str, Any],
    *,
    daemonize: Annotated[bool, typer.Option("--daemonize", help="Run in the background (always on).")] = True,  # noqa: ARG001
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Give up after this time.")] = (
        START_TIMEOUT_S
    ),
) -> None:
    """Start a daemon in the background; return when it is ready, or fail.

    The daemon leaves the session: neither a terminal nor a job script ends it. Its log is daemon.log in the
    state directory. `serve` runs a daemon in the foreground.
    """
    settings = load(flags)
    check_backends(settings)
    state_dir = settings.state_directory
    arguments = as_arguments(dict(flags) | {"outdir": settings.output_directory, "state_dir": state_dir})
    log_path = state_dir / LOG_FILE_NAME
    pid = start_detached((*ourselves(), "serve", *arguments), log_path, os.environ, timeout)
    endpoint_file = settings.endpoint_file or state_dir / ENDPOINT_FILE_NAME
    typer.echo(f"daemon {pid} is ready; endpoint file {endpoint_file}, log {log_path}")
