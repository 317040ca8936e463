"""The program of a forked process's helper: it makes the process's calls, and relays their messages.

Standard input is a socket over which each call's own socket is received. Requests are read from there only as
fast as gRPC takes them. If the process ends without ending a call, its requests up to then are still sent.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

from tracker_client.transport.channel import CallFailed, GrpcChannel
from tracker_client.transport.forked.frames import CLOSED, MESSAGE, Opening, encode, read_frame, send_frame

LINGER_S = 5.0
"""The longest time that a call may take to end after its process has ended."""


def main() -> None:
    """Serve calls until the process that started this one ends."""
    control = socket.socket(fileno=os.dup(0))
    calls: list[threading.Thread] = []
    while (ends := _receive(control)) is not None:
        calls = [call for call in calls if call.is_alive()]
        for end in ends:
            thread = threading.Thread(target=RelayedCall(socket.socket(fileno=end)).serve, daemon=True)
            thread.start()
            calls.append(thread)
    for call in calls:
        call.join(LINGER_S)
    os._exit(0)  # gRPC's own threads may still wait


def _receive(control: socket.socket) -> list[int] | None:
    try:
        data, ends, _, _ = socket.recv_fds(control, 1, 1)
    except OSError:
        return None
    return ends if data else None


class RelayedCall:
    """One call, between the process at ``end`` and the daemon."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._channel: GrpcChannel | None = None

    def serve(self) -> None:
        """Make the call, and relay until it has ended."""
        with self._end, self._end.makefile("rb") as source:
            frame = read_frame(source)
            if frame is None:
                return
            opening = Opening(**json.loads(frame[1]))
            self._channel = GrpcChannel(opening.address, opening.endpoint)
            outcome = self._relay(opening.method, source)
            self._channel.close()
            with suppress(OSError):
                send_frame(self._end, CLOSED, encode(outcome))

    def _relay(self, method: str, source: IO[bytes]) -> tuple[str, str]:
        assert self._channel is not None
        try:
            for reply in self._channel.call(method, self._requests(source), bytes):
                with suppress(OSError):  # the process has ended; its requests are still sent
                    send_frame(self._end, MESSAGE, reply)
        except CallFailed as failure:
            return failure.code, failure.details
        return "OK", ""

    def _requests(self, source: IO[bytes]) -> Iterator[bytes]:
        while (frame := read_frame(source)) is not None:
            kind, content = frame
            if kind != MESSAGE:
                return
            yield content
        assert self._channel is not None
        end = threading.Timer(LINGER_S, self._channel.close)
        end.daemon = True
        end.start()
