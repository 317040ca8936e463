"""Recognises processes of ``multiprocessing`` that are no ranks of their own.

A worker that is started by 'spawn' or 'forkserver', as by a DataLoader, imports the script's main module
again. So it runs a ``setup_tracker`` that is outside of ``if __name__ == "__main__"``. It has the rank's own
environment, so it would claim the same rank, or start a daemon for itself. Therefore a process that sets up a
tracker writes its pid to the environment, where its workers find it.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

SET_UP_BY_VARIABLE = "TRACKER_SET_UP_BY"


def mark_process(environ: MutableMapping[str, str], pid: int) -> None:
    """Write to ``environ`` that the process ``pid`` has a tracker."""
    environ[SET_UP_BY_VARIABLE] = str(pid)


def is_worker(environ: Mapping[str, str], modules: Mapping[str, Any]) -> bool:
    """Return True if ``multiprocessing`` started this process from one that had a tracker at that time."""
    process = modules.get("multiprocessing.process")  # imported in every process that multiprocessing starts
    marked = environ.get(SET_UP_BY_VARIABLE)
    if process is None or not marked:
        return False
    parent = process.parent_process()
    if parent is None:
        # While it imports the main module, a worker does not know its parent yet.
        return bool(getattr(process.current_process(), "_inheriting", False))
    return str(parent.pid) == marked
