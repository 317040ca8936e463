"""This process and its ancestors: an id, a lasting name, the age, and what an ancestor was started with.

What the host shows is read from /proc; elsewhere nothing is known of it.
"""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

from tracker_protocol.host_processes import pid_space, start_ticks

_PROC = Path("/proc")
_own: tuple[int, bytes] = (0, b"")
"""The pid that the process had when its id was drawn, and the id."""


def process_id() -> bytes:
    """Return 16 random bytes, the same for the whole life of this process; a forked child has others."""
    global _own  # noqa: PLW0603 - a fork changes the process itself
    if _own[0] != os.getpid():
        _own = os.getpid(), secrets.token_bytes(16)
    return _own[1]


def identity_of(pid: int) -> str | None:
    """Return a text that names the process ``pid``, and no other one of any host at any time.

    Returns None if the host does not show it.
    """
    space, started = pid_space(), start_ticks(pid)
    return f"{socket.gethostname()} {space} {pid} {started}" if space and started is not None else None


def age_ms() -> int:
    """Return the milliseconds since this process was started; 0 if the host does not show it."""
    started = start_ticks(os.getpid())
    try:
        uptime_s = float(_PROC.joinpath("uptime").read_text().split()[0])
        return 0 if started is None else max(1, int(1000 * (uptime_s - started / os.sysconf("SC_CLK_TCK"))))
    except (OSError, ValueError, IndexError):
        return 0


def command_line(pid: int) -> list[str]:
    """Return the arguments of a process; empty if the host does not show them."""
    try:
        return _PROC.joinpath(str(pid), "cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def first_environment(pid: int) -> dict[str, str] | None:
    """Return the environment that a process was started with; None if the host does not show it."""
    try:
        text = _PROC.joinpath(str(pid), "environ").read_bytes().decode(errors="surrogateescape")
    except OSError:
        return None
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)
