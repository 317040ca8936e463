"""Moves the files of an ended run out of an output directory, into ``runs/<name>`` below it.

1. The new directory is made, and the manifest says ``moving_to``.
2. Each file that the manifest names is renamed. A directory is renamed as a whole if all its files are the
   run's.
3. The manifest itself is renamed.

Whoever finds a manifest that says ``moving_to`` in another place continues at step 2, so a crash at any point
leaves a move that ends the same way. Files that the manifest does not name stay as they are. So does a named
file if its content is another than the run wrote (a script has replaced it), or if the new directory has it.

The caller holds the lock of the output directory.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path, PurePosixPath

from tracker_daemon.files.atomic_file import sync_directory
from tracker_daemon.files.manifest import Manifest, add_to_manifest
from tracker_daemon.files.run_names import with_id
from tracker_protocol.run_files import MANIFEST_FILE, RUNS_DIRECTORY

_COLLISIONS_MAX = 1_000
_DRAFT = re.compile(r"\.(.+)\.(?:new|generation-\d+)", re.DOTALL)
"""The name of a file that is being made: of a new one, or of a new generation of ``metrics.csv``."""


def finish_move(base: Path) -> None:
    """Continue a move that a crash has interrupted, if there is one.

    Raises:
        OSError: a file cannot be renamed.
    """
    manifest = Manifest.read(base)
    if manifest is not None and manifest.header is not None and manifest.moving_to:
        _Move(base, base / manifest.moving_to, manifest).run()


def move_run(base: Path, manifest: Manifest) -> Path:
    """Move the run of ``manifest`` out of ``base``; return its new directory.

    Raises:
        OSError: a file cannot be renamed. A later call, or :func:`finish_move`, continues.
    """
    assert manifest.header is not None, "only a run's files are moved"
    target = _new_directory(base / RUNS_DIRECTORY, manifest.header.name, manifest.header.run_id)
    add_to_manifest(base, moving_to=target.relative_to(base).as_posix())
    _Move(base, target, manifest).run()
    return target


def _new_directory(parent: Path, name: str, run_id: str) -> Path:
    """Make a directory for the run, or take an empty one that a crash has left."""
    parent.mkdir(parents=True, exist_ok=True)
    names = [name, with_id(name, run_id)]
    names += [f"{names[1]}-{number}" for number in range(2, _COLLISIONS_MAX)]
    for one in names:
        target = parent / one
        if not os.path.lexists(target):
            target.mkdir()
            sync_directory(parent)
            return target
        if target.is_dir() and not any(target.iterdir()):
            return target
    raise FileExistsError(f"{parent} has {_COLLISIONS_MAX} directories named {name}")


class _Move:
    """One move, from ``base`` to ``target``."""

    def __init__(self, base: Path, target: Path, manifest: Manifest) -> None:
        self._base = base
        self._target = target
        self._manifest = manifest
        self._touched: set[Path] = {base, target}

    def run(self) -> None:
        """Rename what is left to rename, the manifest last."""
        self._target.mkdir(parents=True, exist_ok=True)
        for top in sorted({PurePosixPath(file).parts[0] for file in self._manifest.files}):
            self._move(top)
            for draft in self._drafts(top):
                self._move(draft)
        for directory in sorted(self._touched):
            sync_directory(directory)
        _rename(self._base / MANIFEST_FILE, self._target / MANIFEST_FILE)
        sync_directory(self._target)
        sync_directory(self._base)

    def _move(self, path: str) -> None:
        source, goal = self._base / path, self._target / path
        if source.is_dir() and not source.is_symlink():
            self._move_directory(path, source, goal)
        elif os.path.lexists(source) and not os.path.lexists(goal) and self._is_ours(path):
            _rename(source, goal)

    def _move_directory(self, path: str, source: Path, goal: Path) -> None:
        if not os.path.lexists(goal) and self._all_ours(source):
            _rename(source, goal)
            return
        within = [f"{path}/{entry.name}" for entry in sorted(source.iterdir())]
        if not any(self._has_ours(name) for name in within):
            return
        goal.mkdir(exist_ok=True)
        self._touched |= {source, goal}
        for name in within:
            self._move(name)

    def _all_ours(self, directory: Path) -> bool:
        for where, directories, files in os.walk(directory):
            relative = Path(where).relative_to(self._base).as_posix()
            links = [name for name in directories if Path(where, name).is_symlink()]
            empty = not files and not directories
            if empty or links or not all(self._is_ours(f"{relative}/{name}") for name in files):
                return False
        return True

    def _has_ours(self, path: str) -> bool:
        return self._is_ours(path) or any(file.startswith(f"{path}/") for file in self._manifest.files)

    def _is_ours(self, path: str) -> bool:
        if path in self._manifest.files:
            digests = self._manifest.wrote.get(path)
            return digests is None or _digest(self._base / path) in digests
        return self._is_draft(path)

    def _is_draft(self, path: str) -> bool:
        place = PurePosixPath(path)
        found = _DRAFT.fullmatch(place.name)
        return found is not None and str(place.with_name(found[1])) in self._manifest.files

    def _drafts(self, top: str) -> list[str]:
        """Return what a crash has left of the making of the file ``top``."""
        begun = (f".{top}.new", *(path.name for path in self._base.glob(f".{top}.generation-*")))
        return [name for name in begun if self._is_draft(name)]


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _rename(source: Path, goal: Path) -> None:
    source.rename(goal)
