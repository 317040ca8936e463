"""Heartbeats: a backend in a child process commits now and then, so that the daemon knows that it is alive.

The daemon kills a child that sends nothing for a while. A delivery may rightly take longer than that.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from tracker_daemon.backends.base import Commit
from tracker_protocol import limits


class Heartbeat:
    """The heartbeat of one delivery; ``state`` returns the state to commit."""

    def __init__(self, commit: Commit, state: Callable[[], bytes]) -> None:
        self._commit = commit
        self._state = state
        self._last = time.monotonic()

    def beat(self) -> None:
        """Commit the state, if the last heartbeat is long enough ago; for calls between short steps."""
        now = time.monotonic()
        if now - self._last >= limits.CHILD_HEARTBEAT_S:
            self._commit(self._state())
            self._last = now

    @contextlib.contextmanager
    def keep_beating(self) -> Iterator[None]:
        """Commit the state on a thread during one long step, such as the upload of a large file.

        The caller must bound the step. After a day the heartbeat stops and the daemon ends the child.
        """
        done = threading.Event()
        until = time.monotonic() + limits.CHILD_FILE_DEADLINE_S

        def work() -> None:
            while not done.wait(limits.CHILD_HEARTBEAT_S) and time.monotonic() < until:
                self._commit(self._state())

        thread = threading.Thread(target=work, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()  # the thread uses the pipe until the daemon has answered
