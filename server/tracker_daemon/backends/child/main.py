"""The child process of a backend: ``python -m tracker_daemon.backends.child.main module:Class PARENT``.

Its standard input is the pipe to the daemon; whatever the SDK prints goes to the daemon's log. It ends
when the pipe closes, when it is told to close, when the daemon dies, and after anything that a
backend should not raise, since what the SDK left behind is then unknown.

Signals that a scheduler or a terminal sends to all processes of a job are left to the daemon: it
delivers what it has, and this process is needed for that.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module

from tracker_daemon.backends.base import Backend, SetAside
from tracker_daemon.backends.child.lock import ChildLock
from tracker_daemon.backends.child.pipe import (
    Answer,
    Close,
    Closed,
    Commit,
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
    Request,
)
from tracker_daemon.errors import BackendError, BackendRefused, BackendUnavailable
from tracker_daemon.settings.credentials import masked
from tracker_protocol import limits

_PR_SET_PDEATHSIG = 1


class ChildService:
    """Answers the daemon's requests with a backend of its own."""

    def __init__(self, pipe: MessagePipe, target: str) -> None:
        self._pipe = pipe
        self._target = target
        self._backend: Backend | None = None
        self._lock: ChildLock | None = None

    def serve(self) -> None:
        """Answer until the pipe closes or Close is answered."""
        try:
            while not isinstance(answer := self._answer(self._pipe.receive()), Closed):
                self._pipe.send(answer)
            self._pipe.send(answer)
        except PipeClosed:
            self._close()

    def _answer(self, request: Request) -> Answer:
        try:
            return self._carry_out(request)
        except BackendError as error:
            failed = Failed.of(error)
            return Failed(failed.kind, masked(failed.text, os.environ))

    def _carry_out(self, request: Request) -> Answer:
        if isinstance(request, Open):
            self._open(request)
            opened = self._opened()
            return Opened(opened.location(), _shown(opened.handles()))
        if isinstance(request, Deliver):
            backend = self._opened()
            state = backend.deliver(request.entries, self._commit)
            aside, handles = _masked(backend.set_aside()), _shown(backend.handles())
            return Delivered(state, backend.location(), aside, handles)
        if isinstance(request, Look):
            return Looked(masked(self._opened().trouble(), os.environ))
        assert isinstance(request, Close), request
        self._close()
        return Closed()

    def _open(self, request: Open) -> None:
        backend = _load(self._target)
        if self._lock is None:
            name = backend.name + "-files" if request.files_lane else backend.name
            self._lock = ChildLock(request.run.outdir, name, request.run_id, limits.CHILD_LOCK_WAIT_S)
        self._backend = backend
        backend.open(request.run, request.state)

    def _opened(self) -> Backend:
        if self._backend is None:
            raise BackendUnavailable("the backend is not open; open it with the last committed state")
        return self._backend

    def _commit(self, state: bytes) -> None:
        self._pipe.send(Commit(state))
        answer = self._pipe.receive()
        assert isinstance(answer, Committed), answer

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
    """Run the child; its end is the process's end."""
    target, parent = sys.argv[1], int(sys.argv[2])
    _die_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _forget_working_directory()
    pipe = _own_pipe()
    try:
        ChildService(pipe, target).serve()
    # The process's outermost frame: whatever it is, the daemon learns it, and a new child begins anew.
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        with contextlib.suppress(Exception):
            text = f"{type(error).__name__}: {error}"
            pipe.send(Failed("unavailable", masked(text, os.environ)))
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


def _masked(set_aside: Sequence[SetAside]) -> tuple[SetAside, ...]:
    return tuple(replace(one, reason=masked(one.reason, os.environ)) for one in set_aside)


def _shown(handles: Mapping[str, str]) -> dict[str, str]:
    return {name: masked(value, os.environ) for name, value in handles.items()}


def _die_with(parent: int) -> None:
    """Have the kernel end this process with the thread that started it."""
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux the pipe's end must do
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it could be asked for
        sys.exit(1)


def _own_pipe() -> MessagePipe:
    """The pipe, moved away from standard input, so that nothing the SDK starts or reads touches it."""
    end = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return MessagePipe(end, Request)


def _forget_working_directory() -> None:
    """Keep files that lie about in the working directory from being imported as modules."""
    if not getattr(sys.flags, "safe_path", False) and sys.path and sys.path[0] in {"", os.getcwd()}:  # noqa: PTH109
        del sys.path[0]


if __name__ == "__main__":
    main()
