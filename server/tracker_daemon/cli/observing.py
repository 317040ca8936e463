"""``status``, ``wait`` and ``stop``: calls to a running daemon, from a terminal or a script."""

from __future__ import annotations

import os
import socket
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tracker_daemon.cli.process_watch import ProcessWatch
from tracker_daemon.endpoints.control import DaemonClient
from tracker_daemon.endpoints.endpoint_file import EndpointInfo
from tracker_daemon.endpoints.locate import EndpointChoice, locate
from tracker_daemon.errors import DaemonNotRunning, EndpointError

if TYPE_CHECKING:
    from rich.console import RenderableType

WATCH_INTERVAL_S = 1.0
RETRY_S = 0.1
CALL_TIMEOUT_S = 2.0
STOP_TIMEOUT_S = 60.0
STOP_GRACE_S = 10.0

EndpointOption = Annotated[
    str | None,
    typer.Option(
        "--endpoint", metavar="ADDRESS", help="host:port or unix:/path; the token from TRACKER_TOKEN."
    ),
]
EndpointFileOption = Annotated[
    Path | None, typer.Option("--endpoint-file", metavar="FILE", help="The daemon's endpoint file.")
]
StateDirOption = Annotated[
    Path | None, typer.Option("--state-dir", metavar="DIR", help="The daemon's state directory.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(epilog="Examples:\n\n    tracker-daemon status --watch\n\n    tracker-daemon status --json")(
        status
    )
    app.command(epilog="Example:\n\n    tracker-daemon wait --ready --timeout 60")(wait)
    app.command(epilog="Example:\n\n    tracker-daemon stop --state-dir runs/a/.tracker")(stop)


def status(
    endpoint: EndpointOption = None,
    endpoint_file: EndpointFileOption = None,
    state_dir: StateDirOption = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat every second, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The document as JSON, on one line.")] = False,
) -> None:
    """Show a daemon's runs, ranks, lag, backlog and the health of each backend."""
    choice = EndpointChoice(endpoint, endpoint_file, state_dir)
    show = _show_json if as_json else _show_tables
    try:
        show(choice, watch=watch)
    except KeyboardInterrupt:
        if not watch:
            raise


def wait(
    endpoint: EndpointOption = None,
    endpoint_file: EndpointFileOption = None,
    state_dir: StateDirOption = None,
    *,
    ready: Annotated[bool, typer.Option("--ready", help="Until the daemon answers (always).")] = True,  # noqa: ARG001
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Give up after this time.")] = 60.0,
) -> None:
    """Wait until a daemon is ready."""
    choice = EndpointChoice(endpoint, endpoint_file, state_dir)
    deadline = time.monotonic() + timeout
    while (error := _why_not_ready(choice)) is not None:
        if time.monotonic() >= deadline:
            msg = f"no daemon was ready within {timeout:g} s: {error}"
            raise EndpointError(msg)
        time.sleep(RETRY_S)


def stop(
    endpoint: EndpointOption = None,
    endpoint_file: EndpointFileOption = None,
    state_dir: StateDirOption = None,
    *,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, help="Time to deliver, instead of the daemon's own."),
    ] = None,
    exit_status: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="The job is over: N is the exit status of every rank that did not finish."
        ),
    ] = None,
) -> None:
    """Deliver the rest and end a daemon; wait until it is gone. No daemon is no error."""
    try:
        info = locate(EndpointChoice(endpoint, endpoint_file, state_dir), os.environ)
        stop_and_wait(DaemonClient(info), timeout, exit_status)
    except DaemonNotRunning as error:
        typer.echo(f"nothing to stop: {error}", err=True)


def stop_and_wait(
    client: DaemonClient, drain_timeout_s: float | None, exit_status: int | None = None
) -> None:
    """Stop the daemon; return when its process is gone, or, from another host, when it stops answering.

    Raises:
        DaemonNotRunning: no daemon runs there.
        EndpointError: it still runs after the time limit.
    """
    # Taken before the daemon can end: later its pid may be another process's.
    with closing(ProcessWatch(client.info.pid)) if _is_here(client.info) else nullcontext() as process:
        pid = client.stop(drain_timeout_s, exit_status)
        patience_s = (STOP_TIMEOUT_S if drain_timeout_s is None else drain_timeout_s) + STOP_GRACE_S
        gone = process.wait(patience_s) if process else _silent_within(client, patience_s)
    if not gone:
        msg = f"the daemon (pid {pid}) is still delivering after {patience_s:g} s; see tracker-daemon status"
        raise EndpointError(msg)


def _is_here(info: EndpointInfo) -> bool:
    return info.pid > 0 and info.host == socket.gethostname()


def _silent_within(client: DaemonClient, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            client.status(CALL_TIMEOUT_S)
        except DaemonNotRunning:
            return True
        time.sleep(RETRY_S)
    return False


def _why_not_ready(choice: EndpointChoice) -> EndpointError | None:
    try:
        DaemonClient(locate(choice, os.environ)).status(CALL_TIMEOUT_S)
    except EndpointError as error:  # also a refused token: the file may still be an earlier daemon's
        return error
    return None


def _ask(choice: EndpointChoice) -> str:
    # Located again each time: a restarted daemon has another port.
    return DaemonClient(locate(choice, os.environ)).status()


def _show_json(choice: EndpointChoice, *, watch: bool) -> None:
    typer.echo(_ask(choice))
    while watch:
        time.sleep(WATCH_INTERVAL_S)
        typer.echo(_ask(choice))


def _show_tables(choice: EndpointChoice, *, watch: bool) -> None:
    from rich.console import Console  # noqa: PLC0415  only a person's tables need it
    from rich.live import Live  # noqa: PLC0415

    console = Console()
    if not watch:
        console.print(_tables(choice))
        return
    with Live(_tables(choice), console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            time.sleep(WATCH_INTERVAL_S)
            live.update(_tables(choice), refresh=True)


def _tables(choice: EndpointChoice) -> RenderableType:
    from tracker_daemon.status import document as status_document  # noqa: PLC0415  as above
    from tracker_daemon.status import view as status_view  # noqa: PLC0415

    return status_view.render(status_document.decode(_ask(choice)))
