"""A daemon in the background: started by a double fork, in a session of its own.

The starter reads from a pipe. The daemon holds the other end and writes to it when it is ready; a daemon
that ends earlier closes the pipe. So the starter needs no polling, and a prologue script returns when
clients can connect, or fails.

The working directory stays as it is: the search for a project's ``.env`` begins there.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from tracker_daemon.errors import DaemonStartError
from tracker_daemon.launch.log_tail import log_tail

READY_FD_OPTION = "--ready-fd"
_READY = b"ready\n"
_READY_FD = 3
_READ_BYTES = 256
_EXEC_FAILED = 127


def start_detached(argv: Sequence[str], log_path: Path, environ: Mapping[str, str], timeout_s: float) -> int:
    """Start the daemon ``argv`` in the background; return its pid when it is ready.

    ``argv`` is a ``serve`` command line; the option for its end of the pipe is added here. Its output goes
    to ``log_path``. Call it only while the process has one thread.

    Raises:
        DaemonStartError: the daemon ended, or was not ready within ``timeout_s`` seconds and was killed;
            the message has its log's last lines.
    """
    log_start = _prepare_log(log_path)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _become_daemon(argv, log_path, environ, writing)
    os.close(writing)
    try:
        os.waitpid(child, 0)
        pid, problem = _await_ready(reading, time.monotonic() + timeout_s)
        if problem is None:
            return pid
        _end(pid, reading)
    finally:
        os.close(reading)
    msg = f"the daemon did not start ({problem}); its log {log_path} ends:\n{log_tail(log_path, log_start)}"
    raise DaemonStartError(msg)


def readiness_reporter(descriptor: int) -> Callable[[object], None]:
    """Return the function that the daemon calls when it is ready, so that its starter returns."""

    def report(_: object) -> None:
        with contextlib.suppress(OSError):  # the starter has given up or was killed
            os.write(descriptor, _READY)
        os.close(descriptor)

    return report


def _prepare_log(log_path: Path) -> int:
    try:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as log:
            return log.tell()
    except OSError as error:
        msg = f"the daemon cannot be started: its log {log_path} cannot be written: {error.strerror}"
        raise DaemonStartError(msg) from error


def _become_daemon(argv: Sequence[str], log_path: Path, environ: Mapping[str, str], writing: int) -> NoReturn:
    """In the first child: leave the session, fork again, and become the daemon."""
    try:
        os.setsid()
        if daemon := os.fork():
            # Sent now: the starter needs the pid after this process has ended, even if the daemon fails.
            os.write(writing, b"%d\n" % daemon)
            os._exit(0)
        _arrange_descriptors(log_path, writing)
        os.execve(argv[0], [*argv, f"{READY_FD_OPTION}={_READY_FD}"], environ)  # noqa: S606  # our own
    except OSError as error:
        os.write(2, f"error: {argv[0]} cannot be started: {error.strerror}\n".encode())
    finally:
        # On any failure: this copy of the starter must not continue as if it were the starter.
        os._exit(_EXEC_FAILED)


def _arrange_descriptors(log_path: Path, writing: int) -> None:
    """Close all of the starter's descriptors: its terminal, and pipes whose readers wait for their end."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(writing, _READY_FD)
    os.set_inheritable(_READY_FD, True)  # it had that number already
    os.closerange(_READY_FD + 1, os.sysconf("SC_OPEN_MAX"))


def _await_ready(reading: int, deadline: float) -> tuple[int, str | None]:
    """Return the daemon's pid (0: none was started) and why it is not ready; None if it is."""
    said = b""
    while True:
        left = max(0.0, deadline - time.monotonic())
        if not select.select([reading], [], [], left)[0]:
            return _pid_in(said), "it was not ready in time, and was ended"
        more = os.read(reading, _READ_BYTES)
        if not more:
            return 0, "it ended"
        said += more
        if _READY in said.splitlines(keepends=True) and _pid_in(said):
            return _pid_in(said), None


def _end(pid: int, reading: int) -> None:
    """Kill the daemon, if there is one, and wait until its end of the pipe is closed."""
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while os.read(reading, _READ_BYTES):
        pass


def _pid_in(said: bytes) -> int:
    return next((int(line) for line in said.splitlines() if line.isdigit()), 0)
