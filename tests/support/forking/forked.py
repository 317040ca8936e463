"""A forked process, and the connection to the server that forks."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).parents[3]
_AT_START = ("GRPC_", "LC_", "LANG", "MALLOC_", "PYTHON")
"""Variables that an interpreter or an import reads: a fork cannot take these."""


def forks_with(environ: Mapping[str, str]) -> bool:
    """True if a fork with this environment is what a new interpreter with it would be.

    An interpreter that was built on an old system has no ``pidfd_open``, by which a fork's end is seen.
    """
    return hasattr(os, "pidfd_open") and _read_at_start(environ) == _read_at_start(_first_environ())


class ForkedProcess:
    """``python -m tracker_daemon ARGUMENTS`` in a fork, with the interface of ``subprocess.Popen``."""

    def __init__(self, arguments: Sequence[str], output: int) -> None:
        """``output`` is the file descriptor that receives standard output and standard error."""
        self.returncode: int | None = None
        self._server = _server()
        request = {"arguments": list(arguments), "environ": dict(os.environ), "directory": str(Path.cwd())}
        self.pid = int(self._server.ask(request, [output, output]))
        self._ended = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while the process runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once the process has ended."""
        status = self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"the forked daemon {self.pid}", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process is known to have ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout_s: float | None) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], timeout_s)[0]:
            self.returncode = os.waitstatus_to_exitcode(self._server.ask({"wait": self.pid}))
            os.close(self._ended)
        return self.returncode


class _Server:
    """The server of this process."""

    def __init__(self) -> None:
        self._channel, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with end:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.server", str(end.fileno())],
                cwd=_REPOSITORY, env=_environ(), stdin=subprocess.DEVNULL, pass_fds=[end.fileno()],
            )  # fmt: skip
        atexit.register(self._close)

    def ask(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> Any:
        """Return the answer to ``request``."""
        with self._lock:
            socket.send_fds(self._channel, [json.dumps(request).encode()], descriptors)
            return json.loads(self._channel.recv(4096))

    def _close(self) -> None:
        self._channel.close()
        self._process.wait()


@functools.cache
def _server() -> _Server:
    _first_environ()
    return _Server()


@functools.cache
def _first_environ() -> dict[str, str]:
    return dict(os.environ)


def _environ() -> dict[str, str]:
    """The server's own environment: without what only a test, or its daemon, has."""
    given = _first_environ()
    kept = {name: given[name] for name in ("HOME", "PATH", "LD_LIBRARY_PATH") if name in given}
    # BLAS would start threads at its import, which a fork does not have.
    return kept | _read_at_start(given) | {"OPENBLAS_NUM_THREADS": "1"}


def _read_at_start(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in environ.items() if name.startswith(_AT_START)}
