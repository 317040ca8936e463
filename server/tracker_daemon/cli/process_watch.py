"""Waits for the end of a process that is not our child."""

from __future__ import annotations

import os
import select
import time

POLL_S = 0.05


class ProcessWatch:
    """Holds a process by pidfd, so that its end is noticed even if its pid is reused.

    Without pidfd support the pid is polled every 50 ms.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._descriptor = _descriptor(pid)

    def close(self) -> None:
        """Release the process."""
        if self._descriptor is not None:
            os.close(self._descriptor)

    def wait(self, timeout_s: float) -> bool:
        """Return True if the process ends within ``timeout_s``. A zombie counts as ended."""
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
    except OSError:  # gone already, or a kernel before 5.3: polling the pid shows which
        return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
