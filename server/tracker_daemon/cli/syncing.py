"""``sync``: delivers the data that an ended daemon left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from tracker_daemon.cli.options import as_arguments
from tracker_daemon.cli.ourselves import ourselves
from tracker_daemon.endpoints.endpoint_file import ENDPOINT_FILE_NAME
from tracker_daemon.errors import SettingsError
from tracker_daemon.journal.database import JOURNAL_FILE_NAME
from tracker_daemon.launch.attended_daemon import DaemonPlace
from tracker_daemon.launch.daemon_process import UNTIL_STDIN_CLOSES
from tracker_daemon.launch.log_tail import LOG_FILE_NAME
from tracker_daemon.launch.syncing import Syncing
from tracker_daemon.settings.directories import absolute

EXAMPLES = """Examples:

    tracker-daemon sync runs/digits/.tracker

    tracker-daemon sync --upstream runs/digits/.tracker/endpoint.json /tmp/node/state

    WANDB_API_KEY=… tracker-daemon sync --timeout 600 ~/tracker
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=EXAMPLES)(sync)


def sync(
    state_dir: Annotated[
        Path, typer.Argument(metavar="STATE_DIR", help="The state directory, as runs/a/.tracker.")
    ],
    *,
    upstream: Annotated[
        str | None,
        typer.Option(metavar="ENDPOINT", help="If the daemon forwarded: the root to forward to."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="Give up after this time; unset: never.")
    ] = None,
) -> None:
    """Deliver the data that an ended daemon could not, from a login node for example.

    Uses the credentials of this environment. Runs that the daemon left running end too, unless their ranks
    reconnect. Exits with 0 if all is delivered, with 1 if something is left; the journal keeps it.
    """
    directory = absolute(state_dir)
    if not os.path.exists(directory / JOURNAL_FILE_NAME):  # noqa: PTH110 - False in a closed directory
        msg = f"{directory} holds no journal; name a daemon's state directory, such as runs/a/.tracker"
        raise SettingsError(msg)
    place = DaemonPlace(directory, directory / ENDPOINT_FILE_NAME, directory / LOG_FILE_NAME)
    arguments = as_arguments(
        {"state_dir": directory, "endpoint_file": place.endpoint_file, "log_format": "console"}
        | ({"upstream": upstream} if upstream else {})
    )
    argv = (*ourselves(), "serve", UNTIL_STDIN_CLOSES, *arguments)
    raise typer.Exit(Syncing(argv, place, timeout).run())
