"""The pipe between the daemon and a backend's child process.

A message is a 4-byte big-endian length and that many bytes of msgpack. The daemon sends a request (Open,
Deliver, GetTrouble, Close) and the child sends one answer (Opened, Delivered, Trouble, Closed, or Failed).
During a delivery the child may send Commit, and the daemon answers with Committed once the journal has the
state. No other message is ever on its way, so neither side needs a thread to read.
"""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path
from typing import Any

import msgspec

from tracker_daemon.backends.child.messages import Answer, Request
from tracker_protocol import limits

_LENGTH = struct.Struct("!I")
_READ_BYTES = 1 << 20


class PipeClosed(Exception):
    """The other side has closed the pipe, or has ended."""


class PipeTimeout(Exception):
    """The other side did not read or write in time."""


class MessagePipe:
    """One end of the pipe. The daemon reads Answers with a timeout, the child reads Requests without one."""

    def __init__(self, end: socket.socket, messages: Any) -> None:
        """``messages`` is the union of the types to read: :data:`Answer` or :data:`Request`."""
        self._socket = end
        self._decode = msgspec.msgpack.Decoder(messages, dec_hook=_decode_path).decode
        self._encode = msgspec.msgpack.Encoder(enc_hook=_encode_path).encode

    def send(self, message: Request | Answer, timeout_s: float | None = None) -> None:
        """Write a message within ``timeout_s`` seconds.

        Raises:
            PipeClosed: the other side no longer reads.
            PipeTimeout: the other side did not read the message in time.
        """
        payload = self._encode(message)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.sendall(_LENGTH.pack(len(payload)) + payload)
        except TimeoutError as error:
            raise PipeTimeout from error
        except OSError as error:
            raise PipeClosed(str(error)) from error

    def receive(self, timeout_s: float | None = None) -> Any:
        """Read the next message, the whole of it within ``timeout_s`` seconds.

        Raises:
            PipeClosed: there are no further messages, or the bytes are no message.
            PipeTimeout: the message did not arrive in time.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
        if length > limits.CHILD_MESSAGE_MAX_BYTES:
            raise PipeClosed(f"the pipe announced a message of {length} bytes, which no message has")
        try:
            return self._decode(self._read(length, deadline))
        except msgspec.DecodeError as error:
            raise PipeClosed(f"the pipe held bytes that are no message: {error}") from error

    def close(self) -> None:
        """Close this end; the other side then reads the end of the pipe."""
        self._socket.close()

    def _read(self, count: int, deadline: float | None) -> bytearray:
        content = bytearray()
        while len(content) < count:
            content += self._read_some(min(count - len(content), _READ_BYTES), deadline)
        return content

    def _read_some(self, count: int, deadline: float | None) -> bytes:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise PipeTimeout
        self._socket.settimeout(left)
        try:
            some = self._socket.recv(count)
        except TimeoutError as error:
            raise PipeTimeout from error
        except OSError as error:
            raise PipeClosed(str(error)) from error
        if not some:
            raise PipeClosed("the other side has closed the pipe")
        return some


def _encode_path(value: Any) -> str:
    """Encode a path, the only kind of value in a message that msgpack does not have."""
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(type(value))


def _decode_path(kind: type, value: Any) -> Any:
    if issubclass(kind, Path):
        return Path(value)
    raise NotImplementedError(kind)
