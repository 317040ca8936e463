"""A daemon as a child process: started by exec, watched, ended.

The daemon runs in a session of its own, so the terminal's signals do not reach it. Its standard input is
a pipe that nobody writes to. When this process ends, in any way, the pipe closes, and the daemon treats
that as SIGTERM (``serve --until-stdin-closes``).
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
HAS_TERMINAL_OPTION = "--has-terminal"
"""The daemon's standard output is a user's terminal: it prints where runs are recorded, and warnings."""
LAYOUT_OPTION = "--layout"


class DaemonProcess:
    """One started daemon.

    ``argv`` is the whole command line. The log goes to ``log_path``, standard output to our standard error.
    The daemon writes ``endpoint_file`` when it is ready.
    """

    def __init__(self, argv: Sequence[str], log_path: Path, endpoint_file: Path) -> None:
        self._log_path = log_path
        self._endpoint_file = endpoint_file
        # In containers an earlier daemon may have had the same pid; its file is a different one.
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
        """The process id of the daemon."""
        return self._process.pid

    def ready(self) -> EndpointInfo | None:
        """Return the endpoint that the daemon wrote when it was ready; None before that.

        Raises:
            DaemonStartError: the daemon has ended; the message has its log's last lines.
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
            return None  # removed meanwhile; the daemon will write its own
        return info if info.pid == self.pid else None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the daemon runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask the daemon to deliver the rest and end."""
        self._process.send_signal(signal.SIGTERM)

    def hurry(self) -> None:
        """Ask a daemon that is ending to end at once; its journal keeps the undelivered data."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Kill the daemon and wait for its end; its journal keeps all acknowledged data."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Close the pipe: a daemon that still runs drains and ends by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def log_tail(self) -> str:
        """Return the last log lines of this daemon, and of none before it."""
        return log_tail(self._log_path, self._log_start)


def describe_exit(code: int) -> str:
    """Return an exit code in words: ``exit status 3``, or ``killed by SIGKILL``."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def end_when_stdin_closes() -> None:
    """In the daemon: treat the end of the starter, noticed by its pipe, as SIGTERM."""
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
