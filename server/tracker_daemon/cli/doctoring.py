"""``doctor``: checks a machine and its directories, and says what to fix."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from tracker_daemon.cli.options import with_settings
from tracker_daemon.endpoints.endpoint_file import EndpointInfo
from tracker_daemon.endpoints.locate import EndpointChoice, locate
from tracker_daemon.errors import EndpointError
from tracker_daemon.settings.definitions import Settings
from tracker_daemon.settings.loading import load

EXAMPLES = """Examples:

    tracker-daemon doctor

    tracker-daemon doctor --state-dir /scratch/me/tracker --listen 0.0.0.0:0 --backends csv,mlflow

From a rank, on another node, with the client alone: mpiexec -n 4 -ppn 1 python -m tracker_client
"""
STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=EXAMPLES)(with_settings(doctor))


def doctor(flags: Mapping[str, Any]) -> None:
    """Check this machine as a daemon with these settings would; say what to fix.

    Checks directories and their file systems, locks, commits, the clock, addresses, proxies and a running
    daemon; then each backend's credentials, or the root. Leaves no files. Exits with 1 if there is a problem.
    """
    from tracker_daemon.doctor.finding import Severity  # noqa: PLC0415

    console = Console()
    problems = 0
    for finding in _examinations(load(flags)):
        problems += finding.severity is Severity.PROBLEM
        style = STYLES[finding.severity.value]
        console.print(
            Text(f"{finding.severity.value:<8}", style), f"{finding.subject}: {finding.text}", soft_wrap=True
        )
        if finding.advice:
            console.print(f"         → {finding.advice}", style="dim", soft_wrap=True)
    console.print("no problem was found" if not problems else f"{problems} to be fixed")
    raise typer.Exit(1 if problems else 0)


def _examinations(settings: Settings) -> Iterator[Any]:
    from tracker_daemon.doctor import directories, network, services  # noqa: PLC0415  numpy and grpc

    yield from directories.examine_state_directory(settings.state_directory)
    yield from directories.examine_output_directory(settings.output_directory)
    yield from network.examine_endpoint_file(settings.endpoint_file)
    forwards = settings.upstream is not None
    yield from network.examine_listening(settings.listen, for_several_hosts=not forwards)
    yield from network.examine_proxies(os.environ)
    running = _running(settings)
    if running is not None:
        yield from network.examine_daemon(running)
    if forwards:
        yield from network.examine_upstream(settings)
    else:
        yield from services.examine_backends(settings.backend_names, settings.output_directory)


def _running(settings: Settings) -> EndpointInfo | None:
    """Return the daemon that the settings, the environment or the usual places name; None if none runs."""
    try:
        return locate(EndpointChoice(None, settings.endpoint_file, None), os.environ)
    except EndpointError:
        return None
