"""A lock that one child process holds for its run and backend, and that its successor awaits.

A child that was killed may still be in a system call, its SDK's last request on the way; the kernel
gives up its flock only when it is gone for good. So whoever has the lock is alone with the store.

The file lies in the run's directory; where that takes no locks or no files (some network file
systems, a directory that only the tracking server may write), it lies in the temporary directory of
this host, on which the predecessor ran too. It goes when its last holder closes in good order.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import tempfile
import time
from pathlib import Path

from tracker_daemon.errors import BackendUnavailable
from tracker_daemon.files.run_directory import directory_name

_POLL_S = 0.05
_HELD = (errno.EWOULDBLOCK, errno.EACCES)


class ChildLock:
    """An exclusive lock, from construction until :meth:`release` or the process's end."""

    def __init__(self, outdir: Path, backend: str, run_id: str, wait_s: float) -> None:
        """Take the lock.

        Raises:
            BackendUnavailable: another process held it for ``wait_s`` seconds.
        """
        deadline = time.monotonic() + wait_s
        try:
            outdir.mkdir(parents=True, exist_ok=True)
            self._path = outdir / f".tracker-{backend}-{directory_name(run_id)}.lock"
            self._file = _lock(self._path, deadline)
        except OSError:
            self._path = _elsewhere(outdir, backend, run_id)
            self._file = _lock(self._path, deadline)

    def release(self) -> None:
        """Remove the file and give the lock up."""
        if self._file >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1


def _elsewhere(outdir: Path, backend: str, run_id: str) -> Path:
    own = Path(tempfile.gettempdir(), f"tracker-locks-{os.getuid()}")
    own.mkdir(mode=0o700, exist_ok=True)
    key = f"{outdir}\0{backend}\0{run_id}".encode(errors="backslashreplace")
    return own / f"{hashlib.sha256(key).hexdigest()[:24]}.lock"


def _lock(path: Path, deadline: float) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, file):
                return file
        except OSError as error:
            if error.errno not in _HELD:
                os.close(file)
                raise
        os.close(file)
        if time.monotonic() > deadline:
            raise BackendUnavailable(
                f"{path} is still locked by an earlier process of this backend; delivery tries again, "
                "and goes on once that process has ended"
            )
        time.sleep(_POLL_S)


def _is_at(path: Path, file: int) -> bool:
    """Whether the file just locked is the one at ``path``: its last holder may have removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False
