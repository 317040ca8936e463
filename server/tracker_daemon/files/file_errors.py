"""Translates the operating system's errors on a run's files into the errors of delivery."""

from __future__ import annotations

import errno
from pathlib import Path

from tracker_daemon.errors import BackendRefused, BackendUnavailable

_NEEDS_THE_USER = (PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
_ADVICE = {
    errno.ENOSPC: "free some space; delivery then continues by itself",
    errno.EDQUOT: "raise the quota or free some space; delivery then continues by itself",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) for the daemon",
}


def translated(error: OSError, directory: Path) -> BackendRefused | BackendUnavailable:
    """Return the error of delivery to raise for an error at ``directory`` or a file in it."""
    where = error.filename or directory
    if isinstance(error, _NEEDS_THE_USER):
        return BackendRefused(
            f"cannot write {where}: {error.strerror}; let the daemon's user write there, "
            "or move away what is in its place"
        )
    advice = _ADVICE.get(error.errno or 0, "delivery tries again until the file system takes it")
    return BackendUnavailable(f"cannot write {where}: {error.strerror or error}; {advice}")
