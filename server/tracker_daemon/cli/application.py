"""The application: its commands, and where errors become one line and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from types import MappingProxyType

import typer

from tracker_daemon.errors import CommandNotExecutable, CommandNotFound, SettingsError, TrackerDaemonError

FAILED = 1
MISUSED = 2
NOT_EXECUTABLE = 126
NOT_FOUND = 127
EXIT_STATUS: tuple[tuple[type[TrackerDaemonError], int], ...] = (
    (SettingsError, MISUSED),
    (CommandNotExecutable, NOT_EXECUTABLE),
    (CommandNotFound, NOT_FOUND),
)

COMMANDS = MappingProxyType(
    {
        "serve": "serving",
        "run": "running",
        "start": "starting",
        "status": "observing",
        "wait": "observing",
        "stop": "observing",
        "sync": "syncing",
        "ls": "recorded_runs",
        "show": "recorded_runs",
        "tag": "recorded_runs",
        "rm": "recorded_runs",
        "check-config": "configuration",
        "doctor": "doctoring",
    }
)
"""The module of each command, in the order of ``--help``."""


def application(command: str | None = None) -> typer.Typer:
    """Return the application with all commands; if ``command`` is one, only with those of its module.

    The other modules are not imported: ``status`` needs none of what reads settings and serves.
    """
    app = typer.Typer(
        name="tracker-daemon",
        help="Experiment tracking for distributed training: every rank streams to one daemon.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    app.callback()(_keep_command_name)
    named = COMMANDS.get(command or "")
    for module in dict.fromkeys(COMMANDS.values()) if named is None else (named,):
        import_module(f"tracker_daemon.cli.{module}").register(app)
    return app


def _keep_command_name() -> None:
    """Do nothing: with a callback, Typer expects a command's name even if there is one command only."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line (``sys.argv`` when None) and exit with its status.

    The package's own errors are one line on stderr: status 2 for a setting that cannot be used, 127
    and 126 for a command that ``run`` cannot find or execute, else 1.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        application(next(iter(arguments), None))(args=arguments)
    except TrackerDaemonError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(next((status for kind, status in EXIT_STATUS if isinstance(error, kind)), FAILED))
