"""Calls of the daemon's methods: over gRPC in this process, or by a helper process in a forked child.

gRPC does not survive a fork: a child that uses it hangs or fails. So a forked process has a helper make its
calls, a process that is started by exec (``tracker_client.transport.forked``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from tracker_client.endpoints.endpoint import Endpoint
from tracker_client.transport.channel import GrpcChannel
from tracker_client.transport.forked.helper import HelperChannel

Reply = TypeVar("Reply")
_PF_FORKNOEXEC = 0x40
"""Linux's flag of a process that was forked and has not called exec since."""


class Channel(Protocol):
    """A connection to a daemon, for several calls."""

    def call(
        self, method: str, requests: Iterator[bytes], decode: Callable[[bytes], Reply]
    ) -> Generator[Reply, None, None]:
        """Begin a call; return its replies. Another thread takes each request when the one before has left.

        Raises:
            CallFailed: the call has failed; the replies raise it too.
            RuntimeError: no thread could be started.
        """

    def close(self) -> None:
        """End the connection and its calls. Any thread may do so."""


def open_channel(address: str, endpoint: Endpoint) -> Channel:
    """Return a new channel to the daemon at ``address``.

    Raises:
        EndpointError: this process was forked, and the helper that its calls need cannot be started.
    """
    return HelperChannel(address, endpoint) if _forked else GrpcChannel(address, endpoint)


def _is_forked() -> bool:
    """Return True if this process was forked, and whoever forked it may have used gRPC."""
    try:
        # The name in parentheses may itself contain any character.
        fields = Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()
        return bool(int(fields[6]) & _PF_FORKNOEXEC)
    except (OSError, ValueError, IndexError):
        return False


def _note_fork() -> None:
    global _forked  # noqa: PLW0603 - a fork changes the process itself
    _forked = True


_forked = _is_forked()
os.register_at_fork(after_in_child=_note_fork)
