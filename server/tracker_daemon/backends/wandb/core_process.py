"""The SDK's own process, ``wandb-core``: writes the files of a session and uploads them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

from tracker_daemon.errors import BackendUnavailable
from tracker_protocol import limits

_NAME = "wandb-core"
_PROC = Path("/proc")
_POLL_S = 0.02


class CoreProcess(NamedTuple):
    """One such process: its id, and its start in clock ticks since boot, since the kernel reuses ids."""

    pid: int
    started: int

    @staticmethod
    def of_this_process() -> CoreProcess | None:
        """Return the process that this one started last; None if it cannot be found out."""
        known = ((int(path.name), _stat(int(path.name))) for path in _PROC.glob("[0-9]*"))
        own = [CoreProcess(pid, stat.started) for pid, stat in known if stat and stat.parent == os.getpid()]
        return max(own, key=lambda core: core.started, default=None)  # an earlier one may still be ending

    def is_alive(self) -> bool:
        """Return True if the process has not ended."""
        return self._found() is not None

    def kill_orphan(self, writes: Path) -> None:
        """Kill the process if it has outlived the process that started it; ``writes`` is its directory.

        Raises:
            BackendUnavailable: the process does not end.
        """
        deadline = time.monotonic() + limits.WANDB_CORE_ENDS_S
        while (found := self._found()) is not None and found.parent != os.getpid():
            if time.monotonic() > deadline:
                raise BackendUnavailable(
                    f"{_NAME} (pid {self.pid}), left by an earlier process, still writes {writes} "
                    "and does not end"
                )
            os.kill(self.pid, signal.SIGKILL)
            time.sleep(_POLL_S)

    def _found(self) -> _Stat | None:
        found = _stat(self.pid)
        return found if found is not None and found.started == self.started else None


class _Stat(NamedTuple):
    parent: int
    started: int


def _stat(pid: int) -> _Stat | None:
    """Read the state of a process; None if it has ended or is not one of the SDK's."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    if name != _NAME or fields[0] in {"Z", "X"}:
        return None
    return _Stat(parent=int(fields[1]), started=int(fields[19]))
