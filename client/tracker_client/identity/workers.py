"""Which processes of ``multiprocessing`` are no ranks of their own.

A worker that is started by 'spawn' or 'forkserver' (a DataLoader's, say) imports the script's main module
again, and with it a ``setup_tracker`` that stands outside of ``if __name__ == "__main__"``. It has the
rank's own environment, so it would claim the same rank, or start a daemon for itself. So a process
that sets up a tracker leaves its pid in the environment, which tells its children by ``multiprocessing``.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

SET_UP_BY_VARIABLE = "TRACKER_SET_UP_BY"


def mark_process(environ: MutableMapping[str, str], pid: int) -> None:
    """This process has a tracker: its workers shall know."""
    environ[SET_UP_BY_VARIABLE] = str(pid)


def is_worker(environ: Mapping[str, str], modules: Mapping[str, Any]) -> bool:
    """Whether this process was started through ``multiprocessing`` by one that had a tracker then."""
    process = modules.get("multiprocessing.process")  # which is there in every process that it starts
    marked = environ.get(SET_UP_BY_VARIABLE)
    if process is None or not marked:
        return False
    parent = process.parent_process()
    if parent is None:
        # While it imports the main module, a worker is not told yet whose child it is.
        return bool(getattr(process.current_process(), "_inheriting", False))
    return str(parent.pid) == marked
