"""A daemon as a child process: started by exec, watched, ended.

It runs in a session of its own, where the terminal's signals do not reach it. Its standard input is
a pipe that nobody writes to: when this process ends, however it ends, the pipe closes and the
daemon takes that as SIGTERM (``serve --until-stdin-closes``).
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from tracker_daemon.endpoints.endpoint_file import EndpointInfo
from tracker_daemon.errors import DaemonStartError, EndpointError
from tracker_daemon.launch.log_tail import log_tail

UNTIL_STDIN_CLOSES = "--until-stdin-closes"
LAUNCH_KEY_OPTION = "--launch-key"


class DaemonProcess:
    """One started daemon.

    ``argv`` is the whole command line; ``log_path`` receives its log, and our standard error what it prints;
    ``endpoint_file`` is the file that it writes once it is ready.
    """

    def __init__(self, argv: Sequence[str], log_path: Path, endpoint_file: Path) -> None:
        self._log_path = log_path
        self._endpoint_file = endpoint_file
        # A file of an earlier daemon may carry the same pid, as in containers; it is not the same file.
        self._stale = _identity(endpoint_file)
        try:
            log_path.parent.mkdir(parents=True, exist_ok=True)
            with log_path.open("ab") as log:
                self._log_start = log.tell()
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    argv, stdin=subprocess.PIPE, stdout=2, stderr=log, start_new_session=True
                )
        except OSError as error:
            msg = f"the daemon cannot be started: {error.strerror}: {error.filename}"
            raise DaemonStartError(msg) from error

    @property
    def pid(self) -> int:
        """The daemon's process."""
        return self._process.pid

    def ready(self) -> EndpointInfo | None:
        """What the daemon wrote once it was ready; None before.

        Raises:
            DaemonStartError: it has ended; its log's last lines are in the message.
        """
        status = self.poll()
        if status is not None:
            ended = f"the daemon did not start ({describe_exit(status)})"
            msg = f"{ended}; its log {self._log_path} ends:\n{self.log_tail()}"
            raise DaemonStartError(msg)
        if _identity(self._endpoint_file) == self._stale:
            return None
        try:
            info = EndpointInfo.read(self._endpoint_file)
        except EndpointError:
            return None  # removed since; the daemon will write its own
        return info if info.pid == self.pid else None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to deliver what is left and end."""
        self._process.send_signal(signal.SIGTERM)

    def hurry(self) -> None:
        """Ask one that is ending to leave at once; its journal keeps what it has not delivered."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it at once, and wait for that; its journal keeps everything that it acknowledged."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Close the pipe; a daemon that still runs drains and ends by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def log_tail(self) -> str:
        """The last lines that this daemon, and none before it, printed."""
        return log_tail(self._log_path, self._log_start)


def describe_exit(code: int) -> str:
    """An exit code in words: ``exit status 3``, or ``killed by SIGKILL``."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def end_when_stdin_closes() -> None:
    """In the daemon: take the end of the starter, seen by its pipe, as SIGTERM."""
    threading.Thread(target=_await_end_of_stdin, name="starter-watch", daemon=True).start()


def _await_end_of_stdin() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
