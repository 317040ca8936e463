"""The daemon's side of a backend in a process of its own.

The daemon starts the child by exec, one for each run and backend, and sends it requests through a pipe. Only
this child has the backend's credentials in its environment. A child that sends nothing until its deadline is
killed. A child that died is noticed at the next call. In both cases the caller receives BackendUnavailable.
The next opening then starts a new child from the last committed state; that child waits for the lock of its
predecessor.

The kernel ties the child to the *thread* that opened the backend, and to the daemon's process. So call open,
deliver and close on one thread, as a pump does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tracker_daemon.backends.base import Backend, Commit, RunDescription, SetAside, not_open
from tracker_daemon.backends.child import messages
from tracker_daemon.backends.child.messages import Answer, Request
from tracker_daemon.backends.child.pipe import MessagePipe, PipeClosed, PipeTimeout
from tracker_daemon.errors import BackendUnavailable
from tracker_daemon.outbox.entries import OutboxEntry
from tracker_daemon.settings.credentials import child_environment, circumstances
from tracker_protocol import limits


class ChildBackend(Backend):
    """Runs the backend ``target`` in a child process. A subclass names the target."""

    name: ClassVar[str]
    target: ClassVar[str]
    """``module:Class``: a subclass of Backend whose constructor needs no arguments."""
    settings: ClassVar[Mapping[str, str]] = {}
    """Environment variables for the child, unless the daemon's environment sets them."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        open_deadline_s: float = limits.CHILD_OPEN_DEADLINE_S,
        deliver_deadline_s: float = limits.CHILD_DELIVER_DEADLINE_S,
        close_deadline_s: float = limits.CHILD_CLOSE_DEADLINE_S,
    ) -> None:
        """``environment`` is the child's whole environment; by default each opening computes it.

        A deadline is the time in seconds without a message from the child; a commit is a message too.
        """
        self._environment = environment
        self._open_deadline_s = open_deadline_s
        self._deliver_deadline_s = deliver_deadline_s
        self._close_deadline_s = close_deadline_s
        self._child: _Child | None = None
        self._location: str | None = None
        self._handles: Mapping[str, str] = {}
        self._set_aside: tuple[SetAside, ...] = ()
        self._opened_with: object = None

    @property
    def pid(self) -> int | None:
        """The child's process id; None if there is no child."""
        return self._child.process.pid if self._child else None

    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Start a child that opens the backend; see :class:`Backend`."""
        self.close()
        self._opened_with = circumstances(self.name)
        self._child = _Child(self.target, self._environment or self.own_environment())
        answer = self._ask(messages.Open(run, state), self._open_deadline_s)
        assert isinstance(answer, messages.Opened), answer
        self._location, self._handles = answer.location, answer.handles

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:
        """Send ``entries`` to the child, which stores them; see :class:`Backend`."""
        answer = self._ask(messages.Deliver(tuple(entries)), self._deliver_deadline_s, commit)
        assert isinstance(answer, messages.Delivered), answer
        self._location, self._set_aside = answer.location, answer.set_aside
        self._handles = answer.handles
        return answer.state

    def set_aside(self) -> Sequence[SetAside]:
        """Return the child's answer to the last delivery; see :class:`Backend`."""
        return self._set_aside

    def trouble(self) -> str:
        """Ask the child; see :class:`Backend`."""
        if self._child is None:
            return ""
        answer = self._ask(messages.GetTrouble(), self._close_deadline_s)
        assert isinstance(answer, messages.Trouble), answer
        return answer.trouble

    def may_be_resumed(self) -> bool:
        """Return True if the backend's variables or credential files changed since the last opening."""
        return circumstances(self.name) != self._opened_with

    def close(self) -> None:
        """Ask the child to close the backend and to end; kill the child if it does not end."""
        child, self._child = self._child, None
        if child is not None:
            child.end(self._close_deadline_s)

    def location(self) -> str | None:
        """Return the child's last answer; see :class:`Backend`."""
        return self._location

    def handles(self) -> Mapping[str, str]:
        """Return the child's last answer; see :class:`Backend`."""
        return self._handles

    def own_environment(self) -> dict[str, str]:
        """Compute the child's environment; raises as ``child_environment`` does."""
        # Names of files are UTF-8, as in the daemon, whatever the locale is.
        return {**self.settings, **child_environment(self.name), "PYTHONUTF8": "1"}

    def _ask(self, request: Request, deadline_s: float, commit: Commit | None = None) -> Answer:
        child = self._child
        if child is None:
            raise not_open(self.name)
        try:
            answer = self._converse(child, request, deadline_s, commit)
        except PipeTimeout as error:
            self._kill()
            raise BackendUnavailable(
                f"the {self.name} process (pid {child.process.pid}) sent nothing for {deadline_s:g} s and "
                "was killed; delivery restarts from the committed state"
            ) from error
        except PipeClosed as error:
            child.await_end(limits.CHILD_DIES_S)
            self._kill()
            raise BackendUnavailable(
                f"the {self.name} process (pid {child.process.pid}) ended, {child.outcome}; delivery "
                "restarts from the committed state. The daemon's log has the last lines that it printed"
            ) from error
        except BaseException:
            # The journal stopped, or the daemon's own thread ends: no further work of the child could
            # be committed.
            self._kill()
            raise
        if isinstance(answer, messages.Failed):
            raise answer.error
        return answer

    @staticmethod
    def _converse(child: _Child, request: Request, deadline_s: float, commit: Commit | None) -> Answer:
        child.pipe.send(request, deadline_s)
        while isinstance(answer := child.pipe.receive(deadline_s), messages.Commit):
            assert commit is not None, "only a delivery commits"
            commit(answer.state)
            child.pipe.send(messages.Committed(), deadline_s)
        result: Answer = answer
        return result

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()


_START = (
    "import sys; sys.path = [entry for entry in sys.path if entry]; "
    "from tracker_daemon.backends.child.main import main; main()"
)
"""Starts the child without the working directory in its import path: files there are never imported."""


class _Child:
    """A child process and the pipe to it."""

    def __init__(self, target: str, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-c", _START, target, str(os.getpid())]
        with theirs:
            try:
                # In a session of its own the child receives no signals from the terminal, and the
                # processes of its SDK can be killed together with it.
                self.process = subprocess.Popen(  # noqa: S603
                    command, env=environment, stdin=theirs.fileno(), start_new_session=True
                )
            except OSError as error:
                ours.close()
                raise BackendUnavailable(
                    f"{Path(sys.executable).name} cannot be started: {error.strerror}; the backend needs a "
                    "process of its own, so raise the limit on processes or memory"
                ) from error
        self.pipe = MessagePipe(ours, Answer)

    def end(self, deadline_s: float) -> None:
        """Ask the child to close and wait for its end, at most ``deadline_s`` seconds for each."""
        with contextlib.suppress(PipeClosed, PipeTimeout):
            self.pipe.send(messages.Close(), deadline_s)
            self.pipe.receive(deadline_s)
            self.pipe.close()
            self.await_end(deadline_s)
        if self.process.poll() != 0:
            self.kill()

    def kill(self) -> None:
        """Kill the child and the processes that it started."""
        self.pipe.close()
        # The child leads a session, so its process group is its own.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        # A process in an uninterruptible system call (a dead network mount) ends only when that call
        # does; until then its successor waits for its lock.
        self.await_end(limits.CHILD_DIES_S)

    def await_end(self, timeout_s: float) -> None:
        """Wait for the end of the child, at most ``timeout_s`` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)

    @property
    def outcome(self) -> str:
        """The way in which the child ended, for people."""
        code = self.process.returncode
        if code is None:
            return "and is still being ended by the kernel"
        if code < 0:
            return f"by signal {signal.Signals(-code).name}"
        return f"with status {code}"
