"""The directory of a run's files: chosen once, claimed by a manifest, and found again by the run's id.

``base`` is the output directory. Its *layout* decides:

=========  ===========================================================================================
layout     directory of a run
=========  ===========================================================================================
BASE       ``base`` itself. An ended run that is there is first moved to ``base/runs/<its name>``
           (``run_move``). If the run there has not ended, or a ``metrics.csv`` there is no run's:
           ``base/runs/<name>``.
NAME       ``base/<name>``
PROJECT    ``base/<project>/<name>``
=========  ===========================================================================================

A claim is made under the lock of ``base``, so two launches at the same moment get two directories. Beside a
directory ``<name>`` there is a link ``latest`` to the one that was claimed last.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from tracker_daemon.errors import BackendRefused, BackendUnavailable
from tracker_daemon.files.atomic_file import sync_directory
from tracker_daemon.files.layout import Layout
from tracker_daemon.files.manifest import (
    DAEMON,
    SCRIPT,
    Header,
    Manifest,
    add_to_manifest,
    create_manifest,
)
from tracker_daemon.files.run_lock import DirectoryLock, RunLock
from tracker_daemon.files.run_move import finish_move, move_run
from tracker_daemon.files.run_names import safe_part, with_id
from tracker_daemon.files.run_story import Story
from tracker_protocol import limits
from tracker_protocol.run_files import (
    CONFIG_FILE,
    LATEST_LINK,
    MANIFEST_FILE,
    METRICS_FILE,
    RUNS_DIRECTORY,
)

CONFIG_HISTORY_FILE = "config_history.jsonl"
FIXED_FILES = (METRICS_FILE, CONFIG_FILE, CONFIG_HISTORY_FILE)
"""The files that have the same name in each run's directory."""
CSV_LOCK = "csv"
"""The name of the lock that a script without a daemon holds while it writes ``metrics.csv``."""
_LOCK = "run"
_NAMES_TRIED_MAX = 1_000

IsClosed = Callable[[str], bool | None]
"""Returns True if the run of an id has ended and is recorded in full; None if that is not known."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RunPlace:
    """A run that needs a directory."""

    base: Path
    run_id: str
    name: str
    """The name of a directory for the run, see ``run_names``."""
    layout: Layout = Layout.BASE
    project: str = ""
    writer: str = DAEMON
    resumes: bool = False
    """True if the run may have a directory that only a search finds: somebody named the run's id."""


@dataclass(frozen=True, slots=True)
class KnownDirectory:
    """A directory that the run had before, as it remembers."""

    path: Path
    directory_id: str


@dataclass(frozen=True, slots=True)
class MovedRun:
    """An ended run whose files were moved to ``path``."""

    run_id: str
    path: Path


@dataclass(frozen=True, slots=True)
class ClaimedDirectory:
    """A run's directory."""

    path: Path
    directory_id: str
    attempt: int = 0
    """The last attempt that the manifest names."""
    moved: MovedRun | None = None
    """The run whose files had to be moved."""
    notice: str = ""
    """Why the directory is not ``base``, if a user may expect that; "" otherwise."""


def claim_directory(
    place: RunPlace,
    story: Story | None = None,
    *,
    known: KnownDirectory | None = None,
    is_closed: IsClosed = lambda _: None,
) -> ClaimedDirectory:
    """Return the run's directory, after making it if there is none; it is open until :func:`close_directory`.

    ``story`` is the run's beginning, which the manifest tells; None if the manifest has it already.

    Raises:
        OSError: a directory cannot be made or written.
        BackendUnavailable: another process holds the lock of ``base``.
        BackendRefused: other runs have claimed every directory that was tried.
    """
    with closing(HeldDirectory(place.base)) as held:
        if held.lock.is_shared:
            _finish_move(place.base)
        found = _find(place, known)
        if found is None:
            found = _claim_new(place, is_closed, may_move=held.lock.is_shared)
        manifest = Manifest.read(found.path)
        said: dict[str, Any] = {} if story is None else {"run": {**story, "base": str(place.base)}}
        if manifest is not None and manifest.closed:
            said |= {"closed": False, "ended": None}
        if said:
            add_to_manifest(found.path, **said)
        return replace(found, attempt=0 if manifest is None else manifest.attempt)


def find_directory(place: RunPlace, known: KnownDirectory | None = None) -> Path | None:
    """Return the run's directory; None if it has not claimed one.

    Raises:
        OSError: a directory cannot be read.
    """
    return next((path for path in _candidates(place, known) if _has_claimed(path, place.run_id)), None)


def close_directory(path: Path, run_id: str, story: Story | None = None) -> None:
    """Note that nothing more will be written to the run's directory: a later run may move its files.

    ``story`` is the run's end, which the manifest tells; None if it is not known.

    Raises:
        OSError: the manifest cannot be read or written.
    """
    manifest = Manifest.read(path)
    if manifest is not None and manifest.run_id == run_id and not manifest.closed:
        add_to_manifest(path, closed=True, **({} if story is None else {"ended": story}))


class HeldDirectory:
    """The lock of an output directory, as a context."""

    def __init__(self, base: Path) -> None:
        missing = [path for path in (base, *base.parents) if not path.exists()]
        base.mkdir(parents=True, exist_ok=True)
        for path in missing:
            sync_directory(path.parent)
        self.lock = DirectoryLock(base, _LOCK, limits.RUN_DIRECTORY_LOCK_WAIT_S)

    def close(self) -> None:
        """Release the lock."""
        self.lock.release()


def _finish_move(base: Path) -> None:
    try:
        finish_move(base)
    except OSError as error:
        log.warning("an interrupted move of a run's files cannot continue", base=str(base), reason=str(error))


# ---- the run's former directory ----------------------------------------------------------------------


def _find(place: RunPlace, known: KnownDirectory | None) -> ClaimedDirectory | None:
    for path in _candidates(place, known):
        header = Manifest.read_header(path)
        if header is not None and header.run_id == place.run_id:
            return ClaimedDirectory(path, header.directory_id)
    if known is not None and known.path.is_dir() and Manifest.read(known.path) is None:
        # Somebody has removed the manifest alone.
        header = Header(place.run_id, place.name, place.project, place.writer, known.directory_id)
        if create_manifest(
            known.path, header, [name for name in FIXED_FILES if (known.path / name).exists()]
        ):
            return ClaimedDirectory(known.path, known.directory_id)
    return None


def _has_claimed(path: Path, run_id: str) -> bool:
    header = Manifest.read_header(path)
    return header is not None and header.run_id == run_id


def _candidates(place: RunPlace, known: KnownDirectory | None) -> Iterator[Path]:
    """Yield the directories that the run may have: the likely ones, then those of a search."""
    if known is not None:
        yield known.path
    yield place.base
    for parent in (_parent(place), place.base / RUNS_DIRECTORY):
        yield parent / place.name
        yield parent / with_id(place.name, place.run_id)
    if place.resumes:
        yield from _search(place.base)


def _search(base: Path) -> Iterator[Path]:
    """Yield the directories of runs below ``base``, the youngest of each directory first."""
    left = limits.RUN_DIRECTORIES_SEARCHED_MAX
    parents = [base / RUNS_DIRECTORY, base, *(path for path in _subdirectories(base))]
    for parent in parents:
        for path in _subdirectories(parent):
            if (path / MANIFEST_FILE).exists():
                yield path
            left -= 1
            if not left:
                return


def _subdirectories(parent: Path) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [parent / name for name in sorted(names, reverse=True) if not name.startswith(".")]


# ---- a new directory ---------------------------------------------------------------------------------


def _claim_new(place: RunPlace, is_closed: IsClosed, *, may_move: bool) -> ClaimedDirectory:
    header = Header(place.run_id, place.name, place.project, place.writer)
    obstacle = ""
    if place.layout is Layout.BASE:
        taking = _Taking(place.base, is_closed, may_move=may_move)
        obstacle = taking.take(header)
        if not obstacle:
            return ClaimedDirectory(place.base, header.directory_id, moved=taking.moved)
    path = _make_subdirectory(_parent(place), header)
    _link_latest(path)
    notice = obstacle and f"the files of run {place.run_id} are in {path}, since {obstacle}"
    return ClaimedDirectory(path, header.directory_id, notice=notice)


def _parent(place: RunPlace) -> Path:
    """Return the directory for the run's directory, if that is not ``base``."""
    if place.layout is Layout.BASE:
        return place.base / RUNS_DIRECTORY
    return place.base if place.layout is Layout.NAME else place.base / safe_part(place.project)


class _Taking:
    """Takes ``base`` itself for a run, after moving an ended run out of it: ``moved``."""

    def __init__(self, base: Path, is_closed: IsClosed, *, may_move: bool) -> None:
        self.moved: MovedRun | None = None
        self._base = base
        self._is_closed = is_closed
        self._may_move = may_move

    def take(self, header: Header) -> str:
        """Claim ``base``; return why that is not possible, or ""."""
        base = self._base
        occupant = Manifest.read(base)
        if occupant is not None and (obstacle := self._move(occupant)):
            return obstacle
        if os.path.lexists(base / METRICS_FILE):
            return f"{base / METRICS_FILE} is another program's"
        return (
            ""
            if create_manifest(base, header, [METRICS_FILE])
            else f"another run has begun in {base} at the same moment"
        )

    def _move(self, occupant: Manifest) -> str:
        base, header = self._base, occupant.header
        if header is None:
            return f"{base / MANIFEST_FILE} cannot be read"
        if not self._may_be_moved(occupant, header):
            return f"run {header.run_id} in {base} has not ended, or is not recorded in full yet"
        if not self._may_move:
            return f"file locks do not work in {base}, so no files are moved there"
        try:
            if not occupant.closed:
                add_to_manifest(base, closed=True)
            self.moved = MovedRun(header.run_id, move_run(base, occupant))
        except OSError as error:
            return f"the files of run {header.run_id} in {base} cannot be moved: {error}"
        log.info("the files of an ended run were moved", run_id=header.run_id, now=str(self.moved.path))
        return ""

    def _may_be_moved(self, occupant: Manifest, header: Header) -> bool:
        known = self._is_closed(header.run_id)
        if known is not None:
            return known
        if occupant.closed:
            return True
        if header.writer != SCRIPT:
            return False
        try:  # a script that was killed could not close its directory
            RunLock(self._base, CSV_LOCK, header.run_id, 0.0).release()
        except BackendUnavailable:
            return False
        return True


def _make_subdirectory(parent: Path, header: Header) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    names = [header.name, with_id(header.name, header.run_id)]
    names += [f"{names[1]}-{number}" for number in range(2, _NAMES_TRIED_MAX)]
    for name in names:
        path = parent / name
        try:
            path.mkdir()
        except FileExistsError:
            # A crash may have left an empty one. Nobody else makes one, since the lock is held.
            if not path.is_dir() or any(path.iterdir()):
                continue
        if create_manifest(path, header, [METRICS_FILE]):
            sync_directory(parent)
            return path
    raise BackendRefused(f"{parent} is full of other directories named {header.name}; choose another outdir")


def _link_latest(path: Path) -> None:
    """Let ``latest`` beside ``path`` lead there, unless something that is not ours has that name."""
    link = path.parent / LATEST_LINK
    if os.path.lexists(link) and not _is_our_link(link):
        return
    draft = path.parent / f".{LATEST_LINK}.new"
    try:
        draft.unlink(missing_ok=True)
        draft.symlink_to(path.name, target_is_directory=True)
        draft.replace(link)
    except OSError as error:  # a file system without links
        log.info("no link to the latest run can be made", link=str(link), reason=str(error))


def _is_our_link(link: Path) -> bool:
    if not link.is_symlink():
        return False
    target = link.readlink()
    at = link.parent / target
    return len(target.parts) == 1 and (not at.exists() or (at / MANIFEST_FILE).exists())
