"""``ls``, ``show``, ``tag`` and ``rm``: the recorded runs below a directory, without a daemon."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from tracker_client.errors import RunNotFound as NoSuchRun
from tracker_client.recorded import RecordedRun, read, runs
from tracker_client.recorded.run import INTERRUPTED
from tracker_daemon.cli.recorded_view import listed, listing, shown, sight
from tracker_daemon.endpoints.control import CALL_TIMEOUT_S, DaemonClient
from tracker_daemon.endpoints.endpoint_file import ENDPOINT_FILE_NAME, EndpointInfo
from tracker_daemon.errors import EndpointError, RunClosed, RunKept, RunNotFound
from tracker_daemon.files.manifest import add_to_manifest
from tracker_daemon.files.run_removal import remove_run
from tracker_daemon.status import document as status_document

TAG_MAX_CHARACTERS = 64
_LS = """Examples:

    tracker-daemon ls

    tracker-daemon ls /scratch/me --json
"""
_SHOW = """Examples:

    tracker-daemon show latest

    tracker-daemon show digits --in /scratch/me
"""
_TAG = """Examples:

    tracker-daemon tag latest baseline

    tracker-daemon tag digits baseline --remove
"""
_RM = """Examples:

    tracker-daemon rm 20261130-140501-digits

    tracker-daemon rm k3v9m2xq --yes
"""

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="An id, a name, the beginning of one of them, a directory, or latest."
    ),
]
DirectoryOption = Annotated[
    Path, typer.Option("--in", metavar="DIR", help="Where to look for it: there and below.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("ls", epilog=_LS)(list_runs)
    app.command("show", epilog=_SHOW)(show)
    app.command("tag", epilog=_TAG)(tag)
    app.command("rm", epilog=_RM)(remove)


def list_runs(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where to look: there and below.")
    ] = Path(),
    *,
    as_json: JsonOption = False,
) -> None:
    """List the recorded runs below a directory, the newest first."""
    with _translated():
        found = runs(directory)
        if as_json:
            typer.echo(listed(found))
        elif found:
            _print(listing(found))
        else:
            typer.echo(f"no run is recorded in {directory.absolute()} or below", err=True)


def show(run: RunArgument, directory: DirectoryOption = Path(), *, as_json: JsonOption = False) -> None:
    """Show one recorded run: its configuration, final values, files, and where each backend has it."""
    with _translated():
        found = read(run, directory)
        if as_json:
            typer.echo(shown(found))
        else:
            _print(sight(found))


def tag(
    run: RunArgument,
    tags: Annotated[list[str], typer.Argument(metavar="TAG…", help="Words that ls and show print.")],
    directory: DirectoryOption = Path(),
    *,
    remove_tags: Annotated[bool, typer.Option("--remove", help="Remove these tags.")] = False,
) -> None:
    """Tag a recorded run, in its directory alone: W&B and MLflow do not get the tag."""
    for one in tags:
        if not one.strip() or len(one) > TAG_MAX_CHARACTERS or not one.isprintable():
            msg = f"a tag has 1 to {TAG_MAX_CHARACTERS} printable characters, not {one!r}"
            raise typer.BadParameter(msg, param_hint="TAG")
    with _translated():
        found = read(run, directory)
        kept = [one for one in found.tags if one not in tags]
        add_to_manifest(found.directory, tags=kept if remove_tags else [*kept, *dict.fromkeys(tags)])


def remove(
    run: RunArgument,
    directory: DirectoryOption = Path(),
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a recorded run's own files and its directory, if it has ended and is delivered in full.

    What W&B and MLflow have of the run stays there. Files that are not the run's stay too.
    """
    with _translated():
        _remove(read(run, directory), yes=yes)


def _remove(found: RecordedRun, *, yes: bool) -> None:
    if found.state == INTERRUPTED and found.state_dir is not None:
        msg = f"run {found.run_id} was interrupted; first end it with: tracker-daemon sync {found.state_dir}"
        raise RunKept(msg)
    if pending := _pending(found):
        msg = f"run {found.run_id} is not delivered in full: {pending}; tracker-daemon sync {found.state_dir}"
        raise RunKept(msg)
    size = f"{len(found.files)} files, {found.size_bytes:,} bytes"
    if not yes:
        typer.confirm(f"Remove run {found.run_id} ({found.name}) in {found.directory}: {size}?", abort=True)
    left = remove_run(found.base or found.directory, found.directory, found.run_id)
    typer.echo(f"removed run {found.run_id}: {size}", err=True)
    if left:
        typer.echo(f"{found.directory} stays, with what is not the run's: {', '.join(left[:8])}", err=True)


def _pending(run: RecordedRun) -> str:
    """Return what its backends lack, as the daemon says or said last; "" if that is nothing."""
    if run.state_dir is None:
        return ""
    try:
        answer = DaemonClient(EndpointInfo.read(run.state_dir / ENDPOINT_FILE_NAME)).status(CALL_TIMEOUT_S)
        document = status_document.decode(answer)
    except EndpointError:
        last = status_document.read_last(run.state_dir)
        if last is None:
            return ""
        document = last
    return ", ".join(
        f"{backend.pending:,} {backend.unit} for {backend.name}"
        for one in document.runs
        if one.run_id == run.run_id
        for backend in one.backends
        if backend.pending
    )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except NoSuchRun as error:
        raise RunNotFound(str(error)) from error
    except json.JSONDecodeError as error:
        raise RunClosed(f"the run's config.json is no JSON, {error}; correct it, or move it away") from error
    except OSError as error:
        if error.filename is None:  # not about a file of the run
            raise
        msg = f"{os.fsdecode(error.filename)}: {error.strerror}; its owner can give you access to it"
        raise RunClosed(msg) from error


def _print(renderable: object) -> None:
    from rich.console import Console  # noqa: PLC0415  only a person's tables need it

    # A path may have bytes that are no text, and the terminal may know few characters.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # A pipe has no width, so that nothing is cut there.
    Console(width=None if sys.stdout.isatty() else 10_000).print(renderable, soft_wrap=True)
