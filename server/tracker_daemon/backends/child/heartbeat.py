"""Signs of life of a backend in a child process, during a step that only ends when it ends."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from tracker_daemon.backends.base import Commit
from tracker_protocol import limits


@contextlib.contextmanager
def signs_of_life(commit: Commit, state: bytes) -> Iterator[None]:
    """Commit ``state`` now and then meanwhile, so that nobody takes a long upload for a process that hangs.

    Whoever uploads or copies bounds each of its steps; what goes on for longer than a day is not believed.
    """
    done = threading.Event()
    until = time.monotonic() + limits.CHILD_FILE_DEADLINE_S

    def beat() -> None:
        while not done.wait(limits.CHILD_HEARTBEAT_S) and time.monotonic() < until:
            commit(state)

    beating = threading.Thread(target=beat, name="signs-of-life", daemon=True)
    beating.start()
    try:
        yield
    finally:
        done.set()
        beating.join()  # the pipe is its own until it has its answer
