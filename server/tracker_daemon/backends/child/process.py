"""A backend in a process of its own: what hangs or crashes there touches nothing else.

The child is started by exec, once for each run and backend, and only it has that backend's credentials
in its environment. It is fed through a pipe. A call during which the child says nothing for longer
than its deadline ends with the child killed; a child that died, by whatever hand, is noticed at the
next call. Either way the caller gets BackendUnavailable, and its next opening starts a new child from
the last committed state, which waits for the lock of the one before it.

The kernel ties the child to the *thread* that opened the backend, as well as to the daemon's
process: call open, deliver and close on one thread, as a pump does.
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

from tracker_daemon.backends.base import Backend, Commit, RunDescription, SetAside
from tracker_daemon.backends.child.pipe import (
    Answer,
    Close,
    Committed,
    Deliver,
    Delivered,
    Failed,
    Look,
    Looked,
    MessagePipe,
    Open,
    Opened,
    PipeClosed,
    PipeTimeout,
    Request,
)
from tracker_daemon.backends.child.pipe import Commit as CommitAsked
from tracker_daemon.errors import BackendUnavailable
from tracker_daemon.outbox.entries import OutboxEntry
from tracker_daemon.settings.credentials import child_environment, circumstances
from tracker_protocol import limits


class ChildBackend(Backend):
    """Runs the backend named by ``target`` in a child process. A subclass names it."""

    name: ClassVar[str]
    target: ClassVar[str]
    """``module:Class``, a Backend without constructor arguments."""
    settings: ClassVar[Mapping[str, str]] = {}
    """Environment variables for the child, where the daemon's environment does not set them."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        open_deadline_s: float = limits.CHILD_OPEN_DEADLINE_S,
        deliver_deadline_s: float = limits.CHILD_DELIVER_DEADLINE_S,
        close_deadline_s: float = limits.CHILD_CLOSE_DEADLINE_S,
    ) -> None:
        """``environment``: the child's whole environment; by default computed anew at each opening.

        The deadlines are in seconds without a word from the child; a commit on the way is a word.
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
        """The child's process id; None when there is none."""
        return self._child.process.pid if self._child else None

    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Start a child and have it open the backend; see :class:`Backend`."""
        self.close()
        self._opened_with = circumstances(self.name)
        self._child = _Child(self.target, self._environment or self.own_environment())
        answer = self._ask(Open.of(run, state), self._open_deadline_s)
        assert isinstance(answer, Opened), answer
        self._location, self._handles = answer.location, answer.handles

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:
        """Have the child store ``entries``; see :class:`Backend`."""
        answer = self._ask(Deliver.of(entries), self._deliver_deadline_s, commit)
        assert isinstance(answer, Delivered), answer
        self._location, self._set_aside = answer.location, answer.set_aside
        self._handles = answer.handles
        return answer.state

    def set_aside(self) -> Sequence[SetAside]:
        """What the child said after the last delivery; see :class:`Backend`."""
        return self._set_aside

    def trouble(self) -> str:
        """What the child says; see :class:`Backend`."""
        if self._child is None:
            return ""
        answer = self._ask(Look(), self._close_deadline_s)
        assert isinstance(answer, Looked), answer
        return answer.trouble

    def may_be_resumed(self) -> bool:
        """Whether the backend's variables, or files with credentials, are others than at the last opening."""
        return circumstances(self.name) != self._opened_with

    def close(self) -> None:
        """Have the child close the backend and end; kill it when it does not."""
        child, self._child = self._child, None
        if child is not None:
            child.end(self._close_deadline_s)

    def location(self) -> str | None:
        """What the child said last; see :class:`Backend`."""
        return self._location

    def handles(self) -> Mapping[str, str]:
        """What the child said last; see :class:`Backend`."""
        return self._handles

    def own_environment(self) -> dict[str, str]:
        """The child's environment, unless another was given; raises as ``child_environment`` does."""
        return {**self.settings, **child_environment(self.name)}

    def _ask(self, request: Request, deadline_s: float, commit: Commit | None = None) -> Answer:
        child = self._child
        if child is None:
            raise BackendUnavailable(f"the {self.name} backend is not open; open it with its last state")
        try:
            answer = self._converse(child, request, deadline_s, commit)
        except PipeTimeout as error:
            self._kill()
            raise BackendUnavailable(
                f"the {self.name} process (pid {child.process.pid}) said nothing for {deadline_s:g} s and "
                "was killed; delivery begins again from what is committed"
            ) from error
        except PipeClosed as error:
            child.await_end(limits.CHILD_DIES_S)
            self._kill()
            raise BackendUnavailable(
                f"the {self.name} process (pid {child.process.pid}) ended, {child.outcome}; delivery "
                "begins again from what is committed. What it printed last is in the daemon's log"
            ) from error
        except BaseException:
            # The journal stopped, or the daemon's own thread is being ended: what the child does from
            # here on could not be committed.
            self._kill()
            raise
        if isinstance(answer, Failed):
            raise answer.error
        return answer

    @staticmethod
    def _converse(child: _Child, request: Request, deadline_s: float, commit: Commit | None) -> Answer:
        child.pipe.send(request, deadline_s)
        while isinstance(answer := child.pipe.receive(deadline_s), CommitAsked):
            assert commit is not None, "only a delivery commits"
            commit(answer.state)
            child.pipe.send(Committed(), deadline_s)
        result: Answer = answer
        return result

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()


class _Child:
    """A child process and the pipe to it."""

    def __init__(self, target: str, environment: Mapping[str, str]) -> None:
        ours, its = socket.socketpair()
        command = [sys.executable, "-m", "tracker_daemon.backends.child.main", target, str(os.getpid())]
        with its:
            try:
                # In a session of its own it does not get the terminal's signals, and what its SDK
                # starts can be killed with it.
                self.process = subprocess.Popen(  # noqa: S603
                    command, env=environment, stdin=its.fileno(), start_new_session=True
                )
            except OSError as error:
                ours.close()
                raise BackendUnavailable(
                    f"{Path(sys.executable).name} cannot be started: {error.strerror}; the backend needs a "
                    "process of its own, so raise the limit on processes or memory"
                ) from error
        self.pipe = MessagePipe(ours, Answer)

    def end(self, deadline_s: float) -> None:
        """Ask it to close and wait for its end, ``deadline_s`` seconds at most for each."""
        with contextlib.suppress(PipeClosed, PipeTimeout):
            self.pipe.send(Close(), deadline_s)
            self.pipe.receive(deadline_s)
            self.pipe.close()
            self.await_end(deadline_s)
        if self.process.poll() != 0:
            self.kill()

    def kill(self) -> None:
        """End it and what it started, now."""
        self.pipe.close()
        # Its own process group: it was made a session's leader.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        # A process in an uninterruptible system call (a dead network mount) ends when the kernel lets
        # it; the lock that it holds keeps its successor waiting until then.
        self.await_end(limits.CHILD_DIES_S)

    def await_end(self, timeout_s: float) -> None:
        """Wait until it has ended, ``timeout_s`` seconds at most."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)

    @property
    def outcome(self) -> str:
        """How it ended."""
        code = self.process.returncode
        if code is None:
            return "and is still being ended by the kernel"
        if code < 0:
            return f"by signal {signal.Signals(-code).name}"
        return f"with status {code}"
