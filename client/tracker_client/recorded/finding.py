"""Finds recorded runs below a directory, and the one that a user means."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from tracker_client.errors import RunNotFound
from tracker_client.recorded.run import RecordedRun, read_run
from tracker_protocol import limits
from tracker_protocol.run_files import LATEST_LINK, RUNS_DIRECTORY

_DEPTH_MAX = 3
"""Below a directory: ``tracker-runs``, a project, a run."""
_NAMED_MAX = 5
_BEGINNING = datetime.fromtimestamp(0, tz=timezone.utc)


def runs(directory: str | os.PathLike[str] = ".") -> list[RecordedRun]:
    """Return the runs in and below ``directory``, the newest first.

    Looks three levels deep, and of a run's directory in its ``runs`` alone. Looks at
    ``RUN_DIRECTORIES_SEARCHED_MAX`` directories at most. Passes over what the user may not read.

    Raises:
        RunNotFound: ``directory`` is no directory.
        OSError: ``directory`` itself cannot be read.
    """
    base = Path(directory).expanduser().absolute()
    if not base.is_dir():
        raise RunNotFound(f"{base} is no directory; name one that runs were recorded in")
    left = [limits.RUN_DIRECTORIES_SEARCHED_MAX]
    found = list(_below(base, _DEPTH_MAX, left))
    return sorted(found, key=lambda run: run.created or _BEGINNING, reverse=True)


def read(run: str | os.PathLike[str], directory: str | os.PathLike[str] = ".") -> RecordedRun:
    """Return one run.

    Args:
        run: a run's directory, its id, its name, the beginning of one of them, or "latest".
        directory: the directory in and below which it is looked for.

    Raises:
        RunNotFound: no run has this name, or several have.
        OSError: the directory that ``run`` names, or ``directory``, cannot be read.
    """
    named = os.fspath(run)
    if named and (found := read_run(Path(named).expanduser().resolve())) is not None:
        return found
    known = runs(directory)
    if named == LATEST_LINK and known:
        return known[0]
    matching = _matching(named, known)
    if len(matching) == 1:
        return matching[0]
    raise RunNotFound(_why_none(named, matching, known, Path(directory)))


def _below(directory: Path, depth: int, left: list[int]) -> Iterator[RecordedRun]:
    left[0] -= 1
    run = read_run(directory)
    if run is not None:
        yield run
        inner = [directory / RUNS_DIRECTORY]  # what else is there may be the run's own artifacts
    else:
        inner = _subdirectories(directory)
    for one in inner:
        if left[0] > 0 and depth > 0:
            with suppress(OSError):  # not ours to read, or gone by now
                if one.is_dir():
                    yield from _below(one, depth - 1, left)


def _subdirectories(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            )
    except OSError:  # not ours to read
        return []
    return [directory / name for name in names]


def _matching(named: str, known: list[RecordedRun]) -> list[RecordedRun]:
    for exact in (
        [run for run in known if run.run_id == named],
        [run for run in known if named in (run.name, run.directory.name)],
    ):
        if exact:
            return exact
    return [
        run
        for run in known
        if any(text.startswith(named) for text in (run.run_id, run.name, run.directory.name))
    ]


def _why_none(named: str, matching: list[RecordedRun], known: list[RecordedRun], directory: Path) -> str:
    place = directory.absolute()
    if not known:
        return f"there is no run in {place}; name a directory that runs were recorded in"
    shown = matching or known
    listed = ", ".join(f"{run.run_id} ({run.name}, {run.directory})" for run in shown[:_NAMED_MAX])
    more = f" and {len(shown) - _NAMED_MAX} more" if len(shown) > _NAMED_MAX else ""
    if matching:
        return f"{len(matching)} runs match {named!r}: {listed}{more}; give an id or a directory"
    return f"no run in {place} matches {named!r}; there are {listed}{more}"
