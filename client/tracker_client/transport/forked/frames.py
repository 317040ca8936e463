"""Frames: the parts of a call, as a forked process and its helper exchange them over a socket.

A frame is a byte for its kind, the length of its content in 4 bytes (big-endian), and the content. A call
begins with an OPENING. Then each side sends MESSAGEs. An END ends the requests; CLOSED ends the call.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from typing import IO

from tracker_client.endpoints.endpoint import Endpoint

OPENING, MESSAGE, END, CLOSED = 0, 1, 2, 3
_HEAD = struct.Struct(">BI")


@dataclass(frozen=True)
class Opening:
    """The method to call, the daemon's address, and what a connection to it needs."""

    method: str
    address: str
    token: str | None
    tls_root: str | None

    @classmethod
    def of(cls, method: str, address: str, endpoint: Endpoint) -> Opening:
        """Return the opening of a call at ``address`` of ``endpoint``."""
        pem = endpoint.tls_root_pem
        return cls(method, address, endpoint.token, None if pem is None else pem.decode())

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint to call."""
        pem = self.tls_root
        return Endpoint((self.address,), self.token, None if pem is None else pem.encode())


def send_frame(out: socket.socket, kind: int, content: bytes = b"") -> None:
    """Send one frame.

    Raises:
        OSError: the other side has ended.
    """
    out.sendall(_HEAD.pack(kind, len(content)) + content)


def read_frame(source: IO[bytes]) -> tuple[int, bytes] | None:
    """Read one frame; return None if the other side has ended, perhaps in the middle of a frame."""
    try:
        head = source.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        kind, length = _HEAD.unpack(head)
        content = source.read(length)
    except (OSError, ValueError):  # ValueError: this side has closed the socket
        return None
    return (kind, content) if len(content) == length else None


def encode(values: object) -> bytes:
    """Return ``values`` as JSON."""
    return json.dumps(values).encode()
