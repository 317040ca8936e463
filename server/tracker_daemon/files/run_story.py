"""What a run's manifest tells of the run: its beginning, where its backends record it, and its end.

With this a directory of runs can be listed without any daemon, and without its journal:

* ``{"run": {…}}`` at each claim: name, beginning, world size, the output and the state directory, and the
  writing process;
* ``{"backend": {"name": …, "location": …, "url": …}}`` once a backend knows where it records the run;
* ``{"ended": {…}}`` when the directory is closed: status, reason, end, attempt, world size, last step.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracker_daemon.files.manifest import Manifest, add_to_manifest
from tracker_protocol.host_processes import pid_space, start_ticks

Story = Mapping[str, Any]


def beginning(name: str, created_ns: int, *, world_size: int = 0, state_dir: Path | None = None) -> Story:
    """Return the story's beginning; this process is the one that writes the run's files.

    ``state_dir`` is the daemon's state directory; a script without a daemon has none. ``world_size`` is 0
    while it is not known.
    """
    pid = os.getpid()
    return {
        "name": name,
        "created_ns": created_ns,
        "world_size": world_size,
        "state_dir": None if state_dir is None else str(state_dir),
        "host": socket.gethostname(),
        "pid": pid,
        "pid_space": pid_space(),
        "start_ticks": start_ticks(pid),
    }


def ending(
    status: str, reason: str, ended_ns: int, *, attempt: int, world_size: int, last_step: int | None
) -> Story:
    """Return the story's end."""
    return {
        "status": status,
        "reason": reason,
        "ended_ns": ended_ns,
        "attempt": attempt,
        "world_size": world_size,
        "last_step": last_step,
    }


def tell_backend(
    directory: Path, run_id: str, backend: str, location: str, handles: Mapping[str, str]
) -> None:
    """Add where ``backend`` records the run, if ``directory`` is still the run's.

    Raises:
        OSError: the manifest cannot be read or written.
    """
    header = Manifest.read_header(directory)
    if header is None or header.run_id != run_id:
        return
    told = {"name": backend, "location": location, "url": handles.get("url", "")}
    add_to_manifest(directory, backend=told)
