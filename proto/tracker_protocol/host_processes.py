"""Processes as their host's /proc shows them, so that a daemon and a client on one host mean the same ones.

A pid means a process only within its *pid space*: one boot of one kernel, and one PID namespace. Pids are
used again, so a process also has its start time. Without /proc, as on macOS, nothing is known.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ANCESTORS_MAX = 16
PROGRAM_MAX_CHARACTERS = 64
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PYTHON = re.compile(r"(python|pypy)[0-9.]*")
_OPTIONS_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")
_STATE, _PARENT, _START = 0, 1, 19
"""Places in /proc/PID/stat behind the name."""


class HostProcess(NamedTuple):
    """A process: its pid, its start in the kernel's ticks since boot, and the name of its program."""

    pid: int
    start_ticks: int
    program: str = ""


def pid_space() -> str:
    """Return the text that two processes share if a pid means the same to both; "" if that is unknown."""
    try:
        return f"{_BOOT_ID.read_text().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 - no path
    except OSError:
        return ""


def start_ticks(pid: int) -> int | None:
    """Return when the process began; None if it has ended, even if its parent has not noticed."""
    stat = _stat(pid)
    return None if stat is None or stat[_STATE] in "ZX" else int(stat[_START])


def ancestors() -> list[HostProcess]:
    """Return the processes from this one's parent upwards, without the first process of all."""
    found: list[HostProcess] = []
    pid = os.getppid()
    while pid > 1 and len(found) < ANCESTORS_MAX and (stat := _stat(pid)) is not None:
        found.append(HostProcess(pid, int(stat[_START]), program_name(_command_line(pid))))
        pid = int(stat[_PARENT])
    return found


def program_name(argv: Sequence[str]) -> str:
    """Return the name of a command's program; of Python, the name of its module or script."""
    words = list(argv)
    name = os.path.basename(words.pop(0)) if words else ""  # noqa: PTH119 - no file is meant
    if _PYTHON.fullmatch(name):
        name = _script_name(words) or name
    return name.encode("utf-8", "replace").decode()[:PROGRAM_MAX_CHARACTERS]


def _script_name(words: list[str]) -> str:
    """Return the module or the script in Python's arguments; "" if there is none."""
    arguments = iter(words)
    for word in arguments:
        if word in _OPTIONS_WITH_VALUE:
            next(arguments, "")
        elif word.startswith("-m"):
            return word[2:] or next(arguments, "")
        elif word == "-c":
            return ""
        elif not word.startswith("-"):
            return os.path.basename(word)  # noqa: PTH119 - no file is meant
    return ""


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The name in parentheses may itself contain any character.
    fields = text.rpartition(")")[2].split()
    return fields if len(fields) > _START else None


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []
