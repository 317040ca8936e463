"""Contents as files: where they are, and how a backend takes one."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from tracker_daemon.backends.atomic_file import sync_directory


def content_path(directory: Path, digest: str) -> Path:
    """Where the content with that SHA-256 (in hexadecimal) is, below the store's ``directory``."""
    return directory / digest[:2] / digest


def place_copy(content: Path, target: Path) -> None:
    """Put a copy of ``content`` at ``target`` in one step, durably; what is there is replaced.

    A copy, never a link: whoever edits it must not change what other backends are given.

    Raises:
        OSError: the content is not there, or the target cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:100]}.new")
    with contextlib.ExitStack() as undo:
        undo.callback(temporary.unlink, missing_ok=True)
        with content.open("rb") as source, temporary.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1024 * 1024)
            copy.flush()
            os.fsync(copy.fileno())
        temporary.replace(target)
    sync_directory(target.parent)
