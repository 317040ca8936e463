"""Contents as files: their paths, and copies for backends."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

from tracker_daemon.files.atomic_file import sync_directory
from tracker_protocol import limits

_COPY_BYTES = 1024 * 1024


def content_path(directory: Path, digest: str) -> Path:
    """Return the path of the content with that SHA-256 (in hexadecimal) below the store's ``directory``."""
    return directory / digest[:2] / digest


def place_copy(content: Path, target: Path) -> None:
    """Put a copy of ``content`` at ``target`` in one step, durably; an existing file is replaced.

    A copy, never a link: a user who edits the file must not change what other backends receive.

    Raises:
        OSError: the content is missing, or the target cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:100]}.new")
    with contextlib.ExitStack() as undo:
        undo.callback(temporary.unlink, missing_ok=True)
        with content.open("rb") as source, temporary.open("wb") as copy:
            _copy_synced(source, copy)
        temporary.replace(target)
    sync_directory(target.parent)


def _copy_synced(source: BinaryIO, copy: BinaryIO) -> None:
    """Copy all, and sync it piece by piece; see ``CONTENT_UNSYNCED_MAX_BYTES``."""
    unsynced_bytes = 0
    while chunk := source.read(_COPY_BYTES):
        copy.write(chunk)
        unsynced_bytes += len(chunk)
        if unsynced_bytes >= limits.CONTENT_UNSYNCED_MAX_BYTES:
            _sync(copy)
            unsynced_bytes = 0
    _sync(copy)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
