"""A lock that a child process holds for its run and backend, and that its successor waits for.

A killed child may still be in a system call, while its SDK's last request is on its way. The kernel releases
the child's flock only when the process is completely gone. So the holder of the lock is alone with the store.

The lock's file lies in the run's directory. Some directories allow no locks or no files: some network file
systems, and a directory that only the tracking server may write. The file then lies in this host's temporary
directory, which the predecessor used too. The last holder removes the file when it closes normally.
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
    """An exclusive lock, from construction until :meth:`release` or the end of the process."""

    def __init__(self, outdir: Path, backend: str, run_id: str, wait_s: float) -> None:
        """Acquire the lock.

        Raises:
            BackendUnavailable: another process held it for ``wait_s`` seconds.
        """
        deadline = time.monotonic() + wait_s
        try:
            outdir.mkdir(parents=True, exist_ok=True)
            self._path = outdir / f".tracker-{backend}-{directory_name(run_id)}.lock"
            self._file = _lock(self._path, deadline)
        except OSError:
            self._path = _temporary_path(outdir, backend, run_id)
            self._file = _lock(self._path, deadline)

    def release(self) -> None:
        """Remove the file and release the lock; a second call does nothing."""
        if self._file >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1


def _temporary_path(outdir: Path, backend: str, run_id: str) -> Path:
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
                "and continues once that process has ended"
            )
        time.sleep(_POLL_S)


def _is_at(path: Path, file: int) -> bool:
    """Return True if the locked file is the one at ``path``; its last holder may have removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False
