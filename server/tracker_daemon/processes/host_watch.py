"""The processes of this host: whether a rank's process or its launcher lives, and who its launchers are.

A rank describes itself in its Hello (``ProcessPlace``). That says something only to a daemon in the same pid
space; to every other daemon, and without /proc, such a rank neither lives nor is gone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from tracker_daemon.processes.launchers import is_launcher
from tracker_protocol.host_processes import HostProcess, pid_space, start_ticks
from tracker_protocol.v1 import tracker_pb2 as pb

_ALONE = "one process"
"""The source of rank and world size of a process that no launcher started."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a rank's process on its host; ``ancestors`` begin with its parent."""

    pid_space: str
    process: HostProcess
    launcher: HostProcess
    """The process that started the ranks: a known launcher, else the parent; of a single process, itself."""
    ancestors: tuple[HostProcess, ...]

    @staticmethod
    def of(process: pb.Process) -> Place | None:
        """Return the place that a Hello names; None if it names none."""
        if not process.place.pid_space:
            return None
        itself = HostProcess(process.pid, process.place.start_ticks)
        ancestors = tuple(HostProcess(a.pid, a.start_ticks, a.program) for a in process.place.ancestors)
        launcher = ancestors[0] if ancestors and process.rank_source != _ALONE else itself
        if launcher is not itself:
            launcher = next((each for each in ancestors if is_launcher(each.program)), launcher)
        return Place(process.place.pid_space, itself, launcher, ancestors)


class HostWatch:
    """Looks at the processes of this daemon's pid space."""

    def __init__(self) -> None:
        self._pid_space = pid_space()
        self.starter_pid = os.getppid()
        self._starter = HostProcess(self.starter_pid, start_ticks(self.starter_pid) or 0)

    def is_here(self, place: Place | None) -> bool:
        """Return True if this daemon sees the process."""
        return place is not None and place.pid_space == self._pid_space

    def is_gone(self, place: Place | None) -> bool:
        """Return True if the process has ended for certain."""
        return place is not None and self.is_here(place) and _has_ended(place.process)

    def is_starter_alive(self) -> bool:
        """Return True if the process that started this daemon lives, or if that is unknown."""
        return not self._pid_space or not _has_ended(self._starter)

    def is_launcher_gone(self, place: Place | None) -> bool:
        """Return True if the launcher has ended for certain."""
        return place is not None and self.is_here(place) and _has_ended(place.launcher)


def _has_ended(process: HostProcess) -> bool:
    return start_ticks(process.pid) != process.start_ticks
