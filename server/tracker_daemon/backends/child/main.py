"""The child process of a backend: :func:`main`, with the arguments ``module:Class PARENT``.

Its standard input is the pipe to the daemon; all that the SDK prints is written to the daemon's log. The
process ends when the pipe closes, after a Close request, and when the daemon dies. It also ends after an
error that no backend should raise, since the state of the SDK is then unknown.

A scheduler or a terminal signals all processes of a job. This process ignores those signals: the daemon still
delivers its data, and needs this process for that.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module

from tracker_daemon.backends.base import Backend, SetAside, not_open
from tracker_daemon.backends.child import messages
from tracker_daemon.backends.child.messages import Answer, Request
from tracker_daemon.backends.child.pipe import MessagePipe, PipeClosed
from tracker_daemon.errors import BackendError, BackendRefused
from tracker_daemon.files.run_lock import RunLock
from tracker_daemon.settings.credentials import masked
from tracker_protocol import limits

_PR_SET_PDEATHSIG = 1
_COLLECT_AFTER_OBJECTS = 50_000
"""The number of new objects after which Python looks for cycles; its default is 700.

The import of an SDK makes far more objects, and they stay: with the default, the searches for garbage among
them take a fifth of MLflow's import.
"""


class ChildService:
    """Answers the daemon's requests by calls of one backend."""

    def __init__(self, pipe: MessagePipe, target: str) -> None:
        self._pipe = pipe
        self._target = target
        self._backend: Backend | None = None
        self._lock: RunLock | None = None

    def serve(self) -> None:
        """Answer requests until the pipe closes or a Close is answered."""
        try:
            while not isinstance(answer := self._answer(self._pipe.receive()), messages.Closed):
                self._pipe.send(answer)
            self._pipe.send(answer)
        except PipeClosed:
            self._close()

    def _answer(self, request: Request) -> Answer:
        try:
            return self._carry_out(request)
        except BackendError as error:
            failed = messages.Failed.of(error)
            return messages.Failed(failed.kind, masked(failed.text, os.environ))

    def _carry_out(self, request: Request) -> Answer:
        if isinstance(request, messages.Open):
            self._open(request)
            opened = self._opened()
            return messages.Opened(opened.location(), _masked_handles(opened.handles()))
        if isinstance(request, messages.Deliver):
            backend = self._opened()
            state = backend.deliver(request.entries, self._commit)
            aside, handles = _masked_reasons(backend.set_aside()), _masked_handles(backend.handles())
            return messages.Delivered(state, backend.location(), aside, handles)
        if isinstance(request, messages.GetTrouble):
            return messages.Trouble(masked(self._opened().trouble(), os.environ))
        assert isinstance(request, messages.Close), request
        self._close()
        return messages.Closed()

    def _open(self, request: messages.Open) -> None:
        backend = _load(self._target)
        if self._lock is None:
            run, suffix = request.run, "-files" if request.run.files_lane else ""
            self._lock = RunLock(run.outdir, backend.name + suffix, run.run_id, limits.CHILD_LOCK_WAIT_S)
        self._backend = backend
        backend.open(request.run, request.state)

    def _opened(self) -> Backend:
        if self._backend is None:
            raise not_open(self._target)
        return self._backend

    def _commit(self, state: bytes) -> None:
        self._pipe.send(messages.Commit(state))
        answer = self._pipe.receive()
        assert isinstance(answer, messages.Committed), answer

    def _close(self) -> None:
        backend, self._backend = self._backend, None
        try:
            if backend is not None:
                backend.close()
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None


def main() -> None:
    """Run the child process; the process ends on return."""
    target, parent = sys.argv[1], int(sys.argv[2])
    _die_with(parent)
    gc.set_threshold(_COLLECT_AFTER_OBJECTS)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pipe = _own_pipe()
    try:
        ChildService(pipe, target).serve()
    # The process's outermost frame: the daemon receives any error, and starts a new child.
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        with contextlib.suppress(Exception):
            text = f"{type(error).__name__}: {error}"
            pipe.send(messages.Failed("unavailable", masked(text, os.environ)))
        sys.exit(1)


def _load(target: str) -> Backend:
    module, _, name = target.partition(":")
    try:
        found = getattr(import_module(module), name)
    except ImportError as error:
        raise BackendRefused(f"the backend {target} cannot be imported here: {error}") from error
    assert issubclass(found, Backend), target
    backend: Backend = found()
    return backend


def _masked_reasons(set_aside: Sequence[SetAside]) -> tuple[SetAside, ...]:
    return tuple(replace(one, reason=masked(one.reason, os.environ)) for one in set_aside)


def _masked_handles(handles: Mapping[str, str]) -> dict[str, str]:
    return {name: masked(value, os.environ) for name, value in handles.items()}


def _die_with(parent: int) -> None:
    """Make the kernel kill this process when the thread that started it ends."""
    with contextlib.suppress(OSError, AttributeError):  # without Linux the end of the pipe must suffice
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the call above
        sys.exit(1)


def _own_pipe() -> MessagePipe:
    """Move the pipe away from standard input, so that the SDK and its processes cannot use it."""
    end = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return MessagePipe(end, Request)
