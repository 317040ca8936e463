"""Locks that the kernel releases when their process is gone: of a run and backend, and of a directory.

A killed child process may still be in a system call, while its SDK's last request is on its way. The kernel
releases the child's flock only when the process is completely gone. So the holder of a lock is alone with
the store.

A lock's file lies in the directory that it protects. Some directories allow no locks or no files: some
network file systems, and a directory that only the tracking server may write. The file then lies in this
host's temporary directory, which other processes of this host use too. The last holder removes the file when
it closes normally.
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
from tracker_daemon.files.run_names import safe_run_id
from tracker_protocol.run_files import OWN_PREFIX

_POLL_S = 0.05
_HELD = (errno.EWOULDBLOCK, errno.EACCES)


class DirectoryLock:
    """An exclusive lock, from construction until :meth:`release` or the end of the process.

    Attributes:
        is_shared: True if processes of other hosts respect the lock too, as far as the file system lets them.
    """

    def __init__(self, directory: Path, name: str, wait_s: float) -> None:
        """Acquire the lock ``name`` in ``directory``.

        Raises:
            BackendUnavailable: another process held it for ``wait_s`` seconds.
        """
        deadline = time.monotonic() + wait_s
        self.is_shared = True
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._path = directory / f"{OWN_PREFIX}-{name}.lock"
            self._file = _lock(self._path, deadline)
        except OSError:
            self.is_shared = False
            self._path = _temporary_path(directory, name)
            self._file = _lock(self._path, deadline)

    def release(self) -> None:
        """Remove the file and release the lock; a second call does nothing."""
        file, self._file = self._file, -1
        if file >= 0:
            try:
                self._path.unlink(missing_ok=True)
            finally:
                os.close(file)


class RunLock(DirectoryLock):
    """The lock of one run and backend, in the run's output directory."""

    def __init__(self, outdir: Path, backend: str, run_id: str, wait_s: float) -> None:
        """Acquire the lock; raises as :class:`DirectoryLock` does."""
        super().__init__(outdir, f"{backend}-{safe_run_id(run_id)}", wait_s)


def _temporary_path(directory: Path, name: str) -> Path:
    own = Path(tempfile.gettempdir(), f"tracker-locks-{os.getuid()}")
    own.mkdir(mode=0o700, exist_ok=True)
    key = f"{directory}\0{name}".encode(errors="backslashreplace")
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
                f"{path} is still locked by another process, such as an earlier one of this backend; "
                "delivery tries again, and continues once that process has ended"
            )
        time.sleep(_POLL_S)


def _is_at(path: Path, file: int) -> bool:
    """Return True if the locked file is the one at ``path``; its last holder may have removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False
