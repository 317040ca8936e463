"""``serve``: a daemon in the foreground."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from tracker_daemon.cli.options import check_backends, with_settings
from tracker_daemon.files.layout import Layout
from tracker_daemon.launch.daemon_process import (
    HAS_TERMINAL_OPTION,
    LAUNCH_KEY_OPTION,
    LAYOUT_OPTION,
    UNTIL_STDIN_CLOSES,
    end_when_stdin_closes,
)
from tracker_daemon.launch.detached import READY_FD_OPTION, readiness_reporter
from tracker_daemon.settings.definitions import Settings
from tracker_daemon.settings.directories import working_directory
from tracker_daemon.settings.loading import load

SERVE_EXAMPLES = """Examples:

    tracker-daemon serve --listen 0.0.0.0:50051 --endpoint-file ~/tracker.json

    tracker-daemon serve --config tracker.toml --backends csv
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=SERVE_EXAMPLES)(with_settings(serve))


def serve(
    flags: Mapping[str, Any],
    *,
    until_stdin_closes: Annotated[bool, typer.Option(UNTIL_STDIN_CLOSES, hidden=True)] = False,
    has_terminal: Annotated[bool, typer.Option(HAS_TERMINAL_OPTION, hidden=True)] = False,
    ready_fd: Annotated[int | None, typer.Option(READY_FD_OPTION, hidden=True)] = None,
    embedded: Annotated[Path | None, typer.Option(hidden=True)] = None,
    launch_key: Annotated[str, typer.Option(LAUNCH_KEY_OPTION, hidden=True)] = "",
    several_hosts: Annotated[bool, typer.Option("--several-hosts", hidden=True)] = False,
    layout: Annotated[Layout, typer.Option(LAYOUT_OPTION, hidden=True)] = Layout.PROJECT,
) -> None:
    """Run a daemon in the foreground until SIGTERM; many runs at once and one after another."""
    if embedded is not None:
        _serve_embedded(flags, embedded, launch_key, several_hosts=several_hosts)
    from tracker_daemon import daemon, logs  # noqa: PLC0415  what serves; `--help` spares it
    from tracker_daemon.delivery.locations import log_location, print_location  # noqa: PLC0415

    settings = load(flags)
    check_backends(settings)
    _leave_deleted_directory(settings)
    logs.configure(settings.log_level, settings.log_format)
    if until_stdin_closes:
        # The daemon lives as long as its command, even if the command logs nothing.
        settings = settings.model_copy(update={"idle_timeout_s": None, "orphan_timeout_s": None})
        end_when_stdin_closes()
    on_ready = None if ready_fd is None else readiness_reporter(ready_fd)
    raise typer.Exit(
        daemon.serve(
            settings,
            on_ready=on_ready,
            launch_id=launch_key,
            on_located=print_location if has_terminal else log_location,
            layout=layout,
            print_line=logs.print_line if has_terminal else None,
        )
    )


def _leave_deleted_directory(settings: Settings) -> None:
    """Move the daemon to the root directory if its own has been deleted; its child processes need one.

    Raises:
        SettingsError: its output directory would be in the deleted one.
    """
    if working_directory() is None:
        settings.output_directory  # noqa: B018 - relative to the deleted directory it is an error
        os.chdir("/")


def _serve_embedded(
    flags: Mapping[str, Any], file: Path, launch_key: str, *, several_hosts: bool
) -> NoReturn:
    """Serve as a rank's child (see ``tracker_client.endpoints.embedded_daemon``)."""
    from tracker_daemon import logs  # noqa: PLC0415  as above
    from tracker_daemon.launch import embedded  # noqa: PLC0415

    launch = embedded.EmbeddedLaunch(file, launch_key, several_hosts)
    settings = load(flags, launch.defaults())
    logs.configure(settings.log_level, "console" if settings.log_format == "auto" else settings.log_format)
    raise typer.Exit(embedded.serve(settings, launch))
