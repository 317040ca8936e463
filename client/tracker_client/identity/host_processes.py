"""Reads what the host shows of this process and of its ancestors, from /proc; elsewhere nothing is known."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

_ANCESTORS_MAX = 32
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
    started = _stat(pid, 19)
    try:
        boot = _PROC.joinpath("sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - no path, but "pid:[number]"
    except OSError:
        return None
    return None if started is None else f"{socket.gethostname()} {boot} {space} {pid} {started}"


def age_ms() -> int:
    """Return the milliseconds since this process was started; 0 if the host does not show it."""
    started = _stat(os.getpid(), 19)
    try:
        uptime_s = float(_PROC.joinpath("uptime").read_text().split()[0])
        return 0 if started is None else max(1, int(1000 * (uptime_s - started / os.sysconf("SC_CLK_TCK"))))
    except (OSError, ValueError, IndexError):
        return 0


def ancestors() -> Iterator[int]:
    """Yield the pids of this process's parent, of the parent's parent and so on, without that of init."""
    pid: int | None = os.getppid()
    for _ in range(_ANCESTORS_MAX):
        if pid is None or pid <= 1:
            return
        yield pid
        pid = _stat(pid, 1)


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


def _stat(pid: int, index: int) -> int | None:
    """Return a number of a process's ``stat``; 0 is the state, which follows the name in parentheses."""
    try:
        text = _PROC.joinpath(str(pid), "stat").read_text(errors="replace")
        # The name may itself contain any character.
        return int(text.rpartition(")")[2].split()[index])
    except (OSError, ValueError, IndexError):
        return None
