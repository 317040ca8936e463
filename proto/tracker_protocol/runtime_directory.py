"""The user's runtime directory on this host: where processes find a daemon although their directories differ.

It is ``$XDG_RUNTIME_DIR/tracker``, else ``tracker-<uid>`` in ``$TMPDIR`` or ``/tmp``. Only the user may read
it. It is local to the host, so a file in it is by a process of this host.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path


def runtime_directories(environ: Mapping[str, str]) -> list[Path]:
    """Return the places of the directory, the preferred one first; not all of them need to exist."""
    given = environ.get("XDG_RUNTIME_DIR", "")
    temporary = dict.fromkeys((environ.get("TMPDIR") or "/tmp", "/tmp"))  # noqa: S108 - checked before use
    own = [Path(given, "tracker")] if given and is_private(Path(given)) else []
    return own + [Path(directory, f"tracker-{os.getuid()}") for directory in temporary]


def is_private(directory: Path) -> bool:
    """Return True if ``directory`` is a directory, no link, of this user, and nobody else may use it."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return private and found.st_uid == os.getuid()


def make_runtime_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the first directory that this user has or can make; None if there is none."""
    for directory in runtime_directories(environ):
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError:
            continue
        if is_private(directory):
            return directory
    return None
