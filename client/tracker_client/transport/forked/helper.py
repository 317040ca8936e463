"""A forked process's helper, which is started by exec and makes calls over gRPC (``relay`` is its program).

One helper serves all channels of a process. It is started for the first channel, and ends with the last one,
or with this process. Each call has a socket of its own, whose other end the helper receives over its standard
input. So a slow upload delays no other call, and requests that are written before this process is killed
still reach the daemon.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import TypeVar

from tracker_client.endpoints.endpoint import Endpoint
from tracker_client.errors import EndpointError
from tracker_client.transport.channel import CallFailed
from tracker_client.transport.forked.frames import (
    CLOSED,
    END,
    MESSAGE,
    OPENING,
    Opening,
    encode,
    read_frame,
    send_frame,
)

Reply = TypeVar("Reply")
_PROGRAM = (
    "import os, sys; "
    "sys.path[:] = os.fsdecode(open(0, 'rb', 0, closefd=False).readline()[:-1]).split(os.pathsep); "
    "from tracker_client.transport.forked.relay import main; main()"
)
"""The helper's program. It reads this process's ``sys.path`` as a line: a script may have changed that."""
_END_WAIT_S = 0.5


class Helper:
    """The helper of this process. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def acquire(self) -> None:
        """Begin to use the helper; start it for the first user.

        Raises:
            EndpointError: it cannot be started.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            self._users += 1

    def release(self) -> None:
        """End the use of the helper; end the helper with the last use."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._end()

    def give(self, end: socket.socket) -> None:
        """Give the helper one end of a call's socket.

        Raises:
            OSError: the helper has ended.
        """
        with self._lock:
            if self._control is None:
                raise BrokenPipeError("the helper has ended")
            socket.send_fds(self._control, [b"c"], [end.fileno()])

    def forget(self) -> None:
        """Drop, in a forked child, what belongs to the parent: an open copy would outlive the parent."""
        self._lock = threading.Lock()
        self._users = 0
        self._process = None
        if self._control is not None:
            os.close(self._control.detach())
            self._control = None

    def _start(self) -> None:
        if not sys.executable or getattr(sys, "frozen", False):
            raise EndpointError(
                "gRPC does not survive a fork, and there is no Python interpreter to start a helper with; "
                "start this process with the 'spawn' method"
            )
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and a program of this module
                    [sys.executable, "-c", _PROGRAM],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                ours.sendall(os.fsencode(os.pathsep.join(sys.path)) + b"\n")
            except OSError as error:
                ours.close()
                raise EndpointError(f"the helper of a forked process cannot be started: {error}") from None
        if self._control is not None:
            self._control.close()
        self._control = ours

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_WAIT_S)


class HelperChannel:
    """A :class:`tracker_client.transport.calls.Channel` whose calls the helper makes.

    Raises:
        EndpointError: the helper cannot be started.
    """

    def __init__(self, address: str, endpoint: Endpoint) -> None:
        self._address = address
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._calls: set[HelperCall] = set()
        self._closed = False
        _helper.acquire()

    def call(
        self, method: str, requests: Iterator[bytes], decode: Callable[[bytes], Reply]
    ) -> Generator[Reply, None, None]:
        """Begin a call; return its replies."""
        try:
            call = HelperCall(Opening.of(method, self._address, self._endpoint))
        except OSError as error:
            raise CallFailed("UNAVAILABLE", f"the helper process does not answer: {error}") from error
        with self._lock:
            self._calls.add(call)
            closed = self._closed
        if closed:
            call.close()
        try:
            call.send_all(requests)
        except RuntimeError:
            call.close()
            raise
        return self._replies(call, decode)

    def _replies(self, call: HelperCall, decode: Callable[[bytes], Reply]) -> Generator[Reply, None, None]:
        try:
            for message in call.replies():
                yield decode(message)
        finally:
            call.close()
            with self._lock:
                self._calls.discard(call)

    def close(self) -> None:
        """End the connection and its calls."""
        with self._lock:
            calls, closed, self._closed = tuple(self._calls), self._closed, True
        for call in calls:
            call.close()
        if not closed:
            _helper.release()


class HelperCall:
    """One call, on a socket of its own.

    Raises:
        OSError: the helper has ended.
    """

    def __init__(self, opening: Opening) -> None:
        self._socket, theirs = socket.socketpair()
        _calls.add(self)
        with theirs:
            _helper.give(theirs)
        send_frame(self._socket, OPENING, encode(asdict(opening)))

    def send_all(self, requests: Iterator[bytes]) -> None:
        """Send the requests, on another thread."""

        def send() -> None:
            with suppress(OSError):  # the call is over
                for request in requests:
                    send_frame(self._socket, MESSAGE, request)
                send_frame(self._socket, END)

        threading.Thread(target=send, name="tracker-requests", daemon=True).start()

    def replies(self) -> Iterator[bytes]:
        """Yield the replies.

        Raises:
            CallFailed: the call has failed.
        """
        with self._socket.makefile("rb") as source:
            while (frame := read_frame(source)) is not None:
                kind, content = frame
                if kind == MESSAGE:
                    yield content
                elif kind == CLOSED:
                    code, details = json.loads(content)
                    if code != "OK":
                        raise CallFailed(code, details)
                    return
        raise CallFailed("UNAVAILABLE", "the helper process has ended")

    def close(self) -> None:
        """End the call."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def forget(self) -> None:
        """Close, in a forked child, the copy of the parent's socket."""
        with suppress(OSError):
            os.close(self._socket.detach())


_helper = Helper()
_calls: weakref.WeakSet[HelperCall] = weakref.WeakSet()


def _forget() -> None:
    _helper.forget()
    for call in tuple(_calls):
        call.forget()


os.register_at_fork(after_in_child=_forget)
