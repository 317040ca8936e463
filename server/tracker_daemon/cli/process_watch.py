"""Waiting for the end of a process that is not our child."""

from __future__ import annotations

import os
import select
import time

POLL_S = 0.05


class ProcessWatch:
    """Holds on to a process, so that its end is seen even if its pid is given to another.

    Where the system has no pidfd the pid itself is asked, every 50 ms.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._descriptor = _descriptor(pid)

    def close(self) -> None:
        """Let go of the process."""
        if self._descriptor is not None:
            os.close(self._descriptor)

    def wait(self, timeout_s: float) -> bool:
        """Whether the process is gone within ``timeout_s``. One that only waits to be reaped is gone."""
        if self._descriptor is not None:
            return bool(select.select([self._descriptor], [], [], timeout_s)[0])
        deadline = time.monotonic() + timeout_s
        while _exists(self._pid):
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True


def _descriptor(pid: int) -> int | None:
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # gone already, or a kernel before 5.3: asking for the pid tells which
        return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
