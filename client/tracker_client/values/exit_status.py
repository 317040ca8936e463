"""The file of a process's exit status, as the stream's last batch names it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExitStatusFile:
    """The ``nonce``, and behind it one byte at the process's end: its exit status.

    ``descriptor`` 0: there is no file, and the status stays unknown.
    """

    descriptor: int = 0
    nonce: bytes = b""
