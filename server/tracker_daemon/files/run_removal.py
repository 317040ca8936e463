"""Removes an ended run's own files from its directory, under the lock of the output directory."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path, PurePosixPath

from tracker_daemon.errors import RunKept
from tracker_daemon.files.atomic_file import sync_directory
from tracker_daemon.files.manifest import Manifest
from tracker_daemon.files.run_directory import HeldDirectory
from tracker_protocol.run_files import LATEST_LINK, MANIFEST_FILE, is_inside


def remove_run(base: Path, directory: Path, run_id: str) -> list[str]:
    """Remove the run's files, and its directory if nothing else is in it; return the names of what is left.

    ``base`` is the output directory that the run was recorded in. The manifest goes last, so that a removal
    that was interrupted can be repeated.

    Raises:
        RunKept: the run may still be written, or has another directory by now.
        BackendUnavailable: another process holds the lock of ``base``.
        OSError: a file cannot be removed.
    """
    with closing(HeldDirectory(base)):
        manifest = Manifest.read(directory)
        if manifest is None or manifest.run_id != run_id:
            raise RunKept(f"run {run_id} is not in {directory} any more; see tracker-daemon ls")
        if not manifest.closed:
            raise RunKept(f"run {run_id} in {directory} has not ended, or is not recorded in full yet")
        files = {PurePosixPath(file) for file in manifest.files if is_inside(file)}
        for file in files:
            (directory / file).unlink(missing_ok=True)
        for parent in sorted(_parents(files), key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # it has files of others
                (directory / parent).rmdir()
        (directory / MANIFEST_FILE).unlink()
        sync_directory(directory)
    return _leave(directory)


def _parents(files: set[PurePosixPath]) -> set[PurePosixPath]:
    return {parent for file in files for parent in file.parents if parent.parts}


def _leave(directory: Path) -> list[str]:
    """Remove the directory itself if it is empty, and a link that led to it; else return what it has."""
    left = sorted(path.name for path in directory.iterdir())
    if left:
        return left
    directory.rmdir()
    link = directory.parent / LATEST_LINK
    if link.is_symlink() and not link.exists():
        link.unlink()
    return []
