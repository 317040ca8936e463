"""The application: its commands, and where errors become one line and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from tracker_daemon.cli import configuration, doctoring, observing, serving, starting, syncing
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

app = typer.Typer(
    name="tracker-daemon",
    help="Experiment tracking for distributed training: every rank streams to one daemon.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
serving.register(app)
starting.register(app)
observing.register(app)
syncing.register(app)
configuration.register(app)
doctoring.register(app)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line (``sys.argv`` when None) and exit with its status.

    The package's own errors are one line on stderr: status 2 for a setting that cannot be used, 127
    and 126 for a command that ``run`` cannot find or execute, else 1.
    """
    try:
        app(args=None if argv is None else list(argv))
    except TrackerDaemonError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(next((status for kind, status in EXIT_STATUS if isinstance(error, kind)), FAILED))
