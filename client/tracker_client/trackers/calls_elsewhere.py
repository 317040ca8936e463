"""Counts calls of a tracker's copies in other processes, such as the workers of a DataLoader.

A forked child has its parent's tracker, and a worker that is started anew has an unpickled one. Neither
records. They share one count with the tracker itself. So the tracker's ``status()`` shows the count, and only
the first call of all processes causes a warning.

The count is the size of a file without a name, to which each call appends a byte. That is one atomic system
call, which needs no lock: a lock may be held when a process forks, or when a signal handler logs.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

COUNT_MAX = 1024 * 1024
"""The count stays there, and so do the bytes of memory that the file needs."""


class CallsElsewhere:
    """The count. Any thread, signal handler or forked child may use it."""

    def __init__(self, address: str = "") -> None:
        """Begin a count, or share the count at ``address`` if its process is on this host and lives."""
        name = f"tracker-calls-{secrets.token_hex(8)}"
        shared = _opened(address)
        self._fd = _created(name) if shared is None else shared
        self._name = name if shared is None else address.rpartition(" ")[2]
        weakref.finalize(self, os.close, self._fd).atexit = False  # other exit functions may log

    @property
    def address(self) -> str:
        """The text by which another process of this host finds the count."""
        return f"/proc/{os.getpid()}/fd/{self._fd} {self._name}"

    def add(self) -> bool:
        """Count a call; return True if it is the first one of all processes."""
        counted = self.count
        if counted < COUNT_MAX:
            with suppress(OSError):  # no memory for another byte
                os.write(self._fd, b"x")
        return counted == 0 and self._is_ours_to_report()

    @property
    def count(self) -> int:
        """The number of calls in all processes, COUNT_MAX at most."""
        return os.fstat(self._fd).st_size

    def _is_ours_to_report(self) -> bool:
        """Return True in one of several processes that make their first calls at the same time."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except OSError:
            return False
        return True


def _created(name: str) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(name)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    return fd


def _opened(address: str) -> int | None:
    """Open the file at ``address``; return None if it is not there, or another file by now."""
    path, _, name = address.rpartition(" ")
    try:
        if name not in str(Path(path).readlink()):
            return None
        return os.open(path, os.O_WRONLY | os.O_APPEND)
    except OSError:
        return None
