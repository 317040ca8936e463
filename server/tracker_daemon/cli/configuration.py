"""``check-config``: prints the effective settings as a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tracker_daemon.cli.options import check_backends
from tracker_daemon.settings.loading import load
from tracker_daemon.settings.view import SettingRow, describe


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("check-config", epilog="Example:\n\n    tracker-daemon check-config tracker.toml")(
        check_config
    )


def check_config(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Settings file to check.")] = None,
) -> None:
    """Validate the settings of file and environment; print the effective ones, secrets masked.

    The output is a settings file; a comment after each value names its source.
    """
    settings = load({} if file is None else {"config": file})
    check_backends(settings)
    rows = describe(settings)
    width = max(len(_assignment(row)) for row in rows)
    for row in rows:
        typer.echo(f"{_assignment(row):<{width}}  # {row.source}")


def _assignment(row: SettingRow) -> str:
    if row.value is None:
        return f"# {row.name} is unset"
    # A settings file cannot name another.
    return f"# {row.name} = {row.value}" if row.name == "config" else f"{row.name} = {row.value}"
