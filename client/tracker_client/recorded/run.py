"""One recorded run, as its manifest and its files show it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tracker_client.recorded.metrics import FinalValue, Row, final_values, last_step, rows
from tracker_protocol.host_processes import pid_space, start_ticks
from tracker_protocol.run_files import CONFIG_FILE, METRICS_FILE, is_inside, manifest_lines

RUNNING = "RUNNING"
INTERRUPTED = "INTERRUPTED"
"""The run has not ended, and the process that wrote its files is gone."""
ENDED = "ENDED"
"""The run has ended; the manifest does not say how."""
_CSV = "csv"
_NS = 1e9


@dataclass(frozen=True, slots=True)
class BackendPlace:
    """Where a backend records the run: a path or an address, and the page of the run if it has one."""

    name: str
    location: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run in its directory.

    Attributes:
        run_id: the run's id.
        name: the name that the user gave; else the directory's name below ``runs``.
        project: the project.
        directory: the run's directory.
        state: RUNNING, FINISHED, FAILED, INTERRUPTED or ENDED.
        reason: why it failed; "" otherwise.
        created: the beginning, with a time zone; None if it is not known.
        ended: the end; None before it, or if it is not known.
        world_size: the number of ranks; None if it is not known.
        attempt: the last attempt, from 1.
        tags: the tags that were given by ``tracker-daemon tag``.
        backends: where each backend records the run.
        files: the run's own files, relative to ``directory``.
        state_dir: the state directory of the daemon that recorded it; None without a daemon.
        is_closed: True once nothing more will be written to the directory.
        base: the output directory that the run was recorded in: ``directory`` or one above it.
    """

    run_id: str
    name: str
    project: str
    directory: Path
    state: str
    reason: str = ""
    created: datetime | None = None
    ended: datetime | None = None
    world_size: int | None = None
    attempt: int = 1
    tags: tuple[str, ...] = ()
    backends: tuple[BackendPlace, ...] = ()
    files: tuple[str, ...] = ()
    state_dir: Path | None = None
    is_closed: bool = False
    base: Path | None = None
    _last_step: int | None = field(default=None, repr=False)

    @property
    def last_step(self) -> int | None:
        """The step of the last record; None if it is not known: without ``metrics.csv``, say."""
        if self._last_step is not None:
            return self._last_step
        try:
            return last_step(self.directory)
        except OSError:  # not ours to read
            return None

    @property
    def size_bytes(self) -> int:
        """The size of the run's own files, in bytes."""
        return sum(self.file_sizes().values())

    def file_sizes(self) -> dict[str, int]:
        """Return the size of each of the run's own files, in bytes; 0 for one that is gone."""
        return {file: _size(self.directory / file) for file in self.files}

    def config(self) -> dict[str, Any]:
        """Return the run's configuration; empty if none is recorded.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not JSON.
        """
        try:
            found = json.loads((self.directory / CONFIG_FILE).read_bytes())
        except FileNotFoundError:
            return {}
        return found if isinstance(found, dict) else {}

    def rows(self) -> Iterator[Row]:
        """Yield the rows of ``metrics.csv`` in the order recorded, each with the columns that it has.

        Raises:
            OSError: the file cannot be read.
        """
        return rows(self.directory)

    def final(self) -> dict[str, FinalValue]:
        """Return the last value of each metric by its name, with its spread across ranks.

        Raises:
            OSError: the file cannot be read.
        """
        return final_values(self.directory)


def read_run(directory: Path) -> RecordedRun | None:
    """Return the run in ``directory``; None if no run has it.

    Raises:
        OSError: the manifest cannot be read.
    """
    try:
        lines = list(manifest_lines(directory))
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not lines or not _text(lines[0].get("run_id")):
        return None
    said: dict[str, Any] = {}
    places: dict[str, BackendPlace] = {}
    for line in lines:
        said |= line
        if isinstance(told := line.get("backend"), dict):
            place = BackendPlace(*(str(told.get(key, "")) for key in ("name", "location", "url")))
            # The file moves with the run; the places of other backends do not.
            is_csv = place.name == _CSV
            places[place.name] = replace(place, location=str(directory / METRICS_FILE)) if is_csv else place
    named = {file for line in lines for file in _texts(line.get("files"))}
    files = tuple(sorted(file for file in named if _is_file(directory, file)))
    return _run(directory, said, tuple(places.values()), files)


def _run(
    directory: Path, said: dict[str, Any], places: tuple[BackendPlace, ...], files: tuple[str, ...]
) -> RecordedRun:
    story, end = _object(said.get("run")), _object(said.get("ended"))
    state_dir, run_id, name = _text(story.get("state_dir")), said["run_id"], _text(story.get("name"))
    return RecordedRun(
        run_id,
        name if name and name != run_id else _text(said.get("name")) or directory.name,
        _text(said.get("project")),
        directory,
        _text(end.get("status")) or _state(story, is_closed=bool(said.get("closed"))),
        _text(end.get("reason")),
        _moment(story.get("created_ns")),
        _moment(end.get("ended_ns")),
        _whole(end.get("world_size")) or _whole(story.get("world_size")) or None,
        _whole(end.get("attempt")) or _whole(said.get("attempt")) or 1,
        tuple(_texts(said.get("tags"))),
        places,
        files,
        Path(state_dir) if state_dir else None,
        is_closed=bool(said.get("closed")),
        base=_base(directory, story.get("base")),
        _last_step=_whole(end.get("last_step")),
    )


# A manifest may be damaged, of a later version or somebody else's: what is not of the kind expected counts as
# not told.


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _is_file(directory: Path, file: str) -> bool:
    """Return True for a file within the run's directory; no other is the run's."""
    try:
        return is_inside(file) and (directory / file).is_file()
    except (OSError, ValueError):  # not ours to read; no path at all
        return False


def _base(directory: Path, told: Any) -> Path:
    """Return the output directory; ``directory`` if somebody has moved it out of there."""
    nearby = (directory, *directory.parents[:2])
    return next((path for path in nearby if str(path) == told), directory)


def _state(story: dict[str, Any], *, is_closed: bool) -> str:
    if is_closed:
        return ENDED
    space = pid_space()
    if not story or not space or story.get("pid_space") != space:
        return RUNNING  # its host would know
    alive = start_ticks(_whole(story.get("pid")) or 0) == story.get("start_ticks")
    return RUNNING if alive else INTERRUPTED


def _moment(time_ns: Any) -> datetime | None:
    if not _whole(time_ns):
        return None
    try:
        return datetime.fromtimestamp(time_ns / _NS, tz=timezone.utc).astimezone()
    except (OverflowError, ValueError, OSError):  # beyond what the platform knows
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
