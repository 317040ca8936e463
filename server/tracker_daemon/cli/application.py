"""The application: its commands, and where errors become one line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Annotated, NamedTuple

import typer

from tracker_daemon.errors import CommandNotExecutable, CommandNotFound, SettingsError, TrackerDaemonError
from tracker_daemon.version import VERSION

FAILED = 1
MISUSED = 2
NOT_EXECUTABLE = 126
NOT_FOUND = 127
_COMPLETION_VARIABLE = "_TRACKER_DAEMON_COMPLETE"
"""The variable by which a shell asks for completions."""
EXIT_STATUS: tuple[tuple[type[TrackerDaemonError], int], ...] = (
    (SettingsError, MISUSED),
    (CommandNotExecutable, NOT_EXECUTABLE),
    (CommandNotFound, NOT_FOUND),
)


class Command(NamedTuple):
    """A command: its module, and its line in the overview, which is its docstring's first."""

    module: str
    summary: str


COMMANDS = MappingProxyType(
    {
        "serve": Command(
            "serving",
            "Run a daemon in the foreground until SIGTERM; many runs at once and one after another.",
        ),
        "run": Command(
            "running",
            "Start a daemon, run CMD with the endpoint in its environment, deliver, exit with CMD's status.",
        ),
        "start": Command("starting", "Start a daemon in the background; return when it is ready, or fail."),
        "status": Command(
            "observing", "Show a daemon's runs, ranks, lag, backlog and the health of each backend."
        ),
        "wait": Command("observing", "Wait until a daemon is ready."),
        "stop": Command(
            "observing", "Deliver the rest and end a daemon; wait until it is gone. No daemon is no error."
        ),
        "sync": Command(
            "syncing",
            "Deliver the data that an ended daemon could not, from a login node for example.",
        ),
        "ls": Command("recorded_runs", "List the recorded runs below a directory, the newest first."),
        "show": Command(
            "recorded_runs",
            "Show one recorded run: its configuration, final values, files, and where each backend has it.",
        ),
        "tag": Command(
            "recorded_runs",
            "Tag a recorded run, in its directory alone: W&B and MLflow do not get the tag.",
        ),
        "rm": Command(
            "recorded_runs",
            "Remove a recorded run's own files and its directory, if it has ended and is delivered in full.",
        ),
        "check-config": Command(
            "configuration",
            "Validate the settings of file and environment; print the effective ones, secrets masked.",
        ),
        "doctor": Command(
            "doctoring",
            "Check this machine as a daemon with these settings would; say what to fix.",
        ),
    }
)
"""The commands in the order of ``--help``."""


def _print_version(asked: bool) -> None:  # noqa: FBT001 - as Typer calls it
    if asked:
        typer.echo(f"tracker-daemon {VERSION}")
        raise typer.Exit


def application(*commands: str) -> typer.Typer:
    """Return the application with these commands; with none, the overview of all.

    Only the commands' modules are imported: ``status`` needs none of what reads settings and serves, and the
    overview needs no module.
    """
    app = typer.Typer(
        name="tracker-daemon",
        help="Experiment tracking for distributed training: every rank streams to one daemon.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    app.callback()(_options)
    for module in dict.fromkeys(COMMANDS[command].module for command in commands):
        import_module(f"tracker_daemon.cli.{module}").register(app)
    for name, (_, summary) in COMMANDS.items() if not commands else ():
        app.command(name, help=summary)(_overview_only)
    return app


def _overview_only() -> None:
    """Stand for a command in the overview; the command line then names none."""


def _options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Have the options that stand before a command, which Typer then expects even if there is only one."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line (``sys.argv`` when None) and exit with its status.

    The package's own errors are one line on stderr: status 2 for a setting that cannot be used, 127
    and 126 for a command that ``run`` cannot find or execute, else 1.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        application(*_needed(arguments))(args=arguments)
    except TrackerDaemonError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(next((status for kind, status in EXIT_STATUS if isinstance(error, kind)), FAILED))


def _needed(arguments: Sequence[str]) -> Iterable[str]:
    if _COMPLETION_VARIABLE in os.environ:  # the shell's words are elsewhere
        return COMMANDS
    return [command for command in arguments[:1] if command in COMMANDS]
