"""The pipe between a backend's two halves: the daemon's side and the child process that holds the SDK.

A message is a 4-byte big-endian length and that many bytes of msgpack. The daemon asks (Open,
Deliver, Look, Close) and the child answers once (Opened, Delivered, Looked, Closed, or Failed); while
it delivers it may send Commit, which the daemon answers with Committed once the journal has it. Nothing else
is ever on the way, so neither side needs a thread to read.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tracker_daemon.backends.base import RunDescription, SetAside
from tracker_daemon.errors import BackendError, BackendRefused, BackendUnavailable, PoisonEntry
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_daemon.rules.metric_rules import MetricSettings
from tracker_protocol import limits

_LENGTH = struct.Struct("!I")
_READ_BYTES = 1 << 20
_ERROR_KINDS: dict[str, type[BackendError]] = {
    "unavailable": BackendUnavailable,
    "refused": BackendRefused,
    "poison": PoisonEntry,
}


class PipeClosed(Exception):
    """The other side has closed the pipe, or is gone."""


class PipeTimeout(Exception):
    """The other side did not read or write in time."""


# ---- what the daemon asks ------------------------------------------------------------------------


class Open(msgspec.Struct, frozen=True, tag="open"):
    """Backend.open, with the run's description in parts."""

    run_id: str
    project: str
    name: str
    outdir: str
    epoch: int
    attempt: int
    options: dict[str, Any]
    environment: dict[str, str]
    state: bytes | None
    contents: str = ""
    files_lane: bool = False
    metrics: MetricSettings = MetricSettings()
    created_ns: int = 0
    system_prefix: str = "tracker"

    @staticmethod
    def of(run: RunDescription, state: bytes | None) -> Open:
        """The request to open ``run`` at ``state``."""
        options, environment = dict(run.options), dict(run.environment)
        return Open(
            run.run_id, run.project, run.name, str(run.outdir), run.epoch, run.attempt,
            options, environment, state, str(run.contents), run.files_lane, run.metrics,
            run.created_ns, run.system_prefix,
        )  # fmt: skip

    @property
    def run(self) -> RunDescription:
        """The description that the request was made of."""
        return RunDescription(
            self.run_id, self.project, self.name, Path(self.outdir), self.epoch, self.attempt,
            self.options, self.environment, Path(self.contents), self.files_lane, self.metrics,
            self.created_ns, self.system_prefix,
        )  # fmt: skip


class Deliver(msgspec.Struct, frozen=True, tag="deliver"):
    """Backend.deliver: (number, kind, payload) of each entry."""

    parts: list[tuple[int, int, bytes]]

    @staticmethod
    def of(entries: Sequence[OutboxEntry]) -> Deliver:
        """The request to deliver ``entries``."""
        return Deliver([(entry.number, int(entry.kind), entry.payload) for entry in entries])

    @property
    def entries(self) -> list[OutboxEntry]:
        """The entries that the request was made of."""
        return [OutboxEntry(number, EntryKind(kind), payload) for number, kind, payload in self.parts]


class Committed(msgspec.Struct, frozen=True, tag="committed"):
    """The journal has the state that Commit carried."""


class Look(msgspec.Struct, frozen=True, tag="look"):
    """Backend.trouble."""


class Close(msgspec.Struct, frozen=True, tag="close"):
    """Backend.close; the child ends after it."""


# ---- what the child answers ----------------------------------------------------------------------


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The backend is open."""

    location: str | None
    handles: dict[str, str] = {}


class Commit(msgspec.Struct, frozen=True, tag="commit"):
    """A state to commit before the delivery goes on; also a sign of life."""

    state: bytes


class Delivered(msgspec.Struct, frozen=True, tag="delivered"):
    """All entries are stored but for what is set aside; ``state`` reflects them."""

    state: bytes
    location: str | None
    set_aside: tuple[SetAside, ...] = ()
    handles: dict[str, str] = {}


class Looked(msgspec.Struct, frozen=True, tag="looked"):
    """What Backend.trouble returned."""

    trouble: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The call raised a BackendError of this kind, with this text."""

    kind: str
    text: str

    @staticmethod
    def of(error: BackendError) -> Failed:
        """What to send for ``error``."""
        kinds = [kind for kind, error_type in _ERROR_KINDS.items() if isinstance(error, error_type)]
        return Failed(kinds[0] if kinds else "unavailable", str(error))

    @property
    def error(self) -> BackendError:
        """The error that was raised."""
        return _ERROR_KINDS.get(self.kind, BackendUnavailable)(self.text)


class Closed(msgspec.Struct, frozen=True, tag="closed"):
    """The backend is closed."""


Request = Open | Deliver | Committed | Look | Close
Answer = Opened | Commit | Delivered | Looked | Failed | Closed


class MessagePipe:
    """One end of the pipe. The daemon reads Answers with a timeout, the child Requests without."""

    def __init__(self, end: socket.socket, messages: Any) -> None:
        self._socket = end
        self._decode = msgspec.msgpack.Decoder(messages).decode
        self._encode = msgspec.msgpack.Encoder().encode

    def send(self, message: Request | Answer, timeout_s: float | None = None) -> None:
        """Write a message, in ``timeout_s`` seconds at most.

        Raises:
            PipeClosed: nobody reads any more.
            PipeTimeout: the other side did not read it in time.
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
        """The next message, waiting ``timeout_s`` seconds at most for the whole of it.

        Raises:
            PipeClosed: there will be none, or what came is no message.
            PipeTimeout: it did not come in time.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
        if length > limits.CHILD_MESSAGE_MAX_BYTES:
            raise PipeClosed(f"a message of {length} bytes was announced, which no message has")
        try:
            return self._decode(self._read(length, deadline))
        except msgspec.DecodeError as error:
            raise PipeClosed(f"what came is no message: {error}") from error

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
