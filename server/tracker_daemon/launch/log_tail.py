"""The end of a daemon's log, for a message about it."""

from __future__ import annotations

import os
from pathlib import Path

LOG_FILE_NAME = "daemon.log"
"""In the state directory, for a daemon that another command starts."""

LINES = 12
BYTES = 16 * 1024


def log_tail(path: Path, begin: int) -> str:
    """Return the last lines of ``path`` after byte ``begin``, so that none is of an earlier daemon."""
    try:
        with path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(begin, end - BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"  (the log cannot be read: {error.strerror})"
    return "\n".join("  " + line for line in lines[-LINES:]) or "  (nothing)"
