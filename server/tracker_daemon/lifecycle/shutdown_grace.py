"""The time for ranks to finish after the signal that ends the daemon, which may be for its whole job.

A batch system sends SIGTERM to every process of a job and, a *grace* later, SIGKILL.

* If the daemon knows the length of the grace, the signal means the job's end. Ranks get most of the grace.
  Ranks still connected when their share ends are recorded as ended, since no daemon will be left to see it.
* If the daemon does not know it, the daemon may be restarted. It serves ranks for SHUTDOWN_GRACE_S seconds.
  Runs with connected ranks continue with the next daemon.
"""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from tracker_daemon.lifecycle.grace import ranks_share_s
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Run
from tracker_protocol import limits


class ShutdownGrace:
    """Waits for ranks to finish. Used on the event loop. ``forwards``: a root must receive their end too."""

    def __init__(
        self,
        registry: Registry,
        grace_s: float | None,
        *,
        forwards: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._grace_s = grace_s
        self._forwards = forwards
        self._clock = clock
        self._signalled_s: float | None = None
        self._over = asyncio.Event()

    def begin(self, number: signal.Signals) -> None:
        """Begin the grace at the signal that ends the daemon. Ctrl-C concerns the daemon, not its job."""
        self._signalled_s = self._clock()
        if number != signal.SIGTERM:
            self._grace_s = None

    def note_disconnect(self) -> None:
        """End the wait if no connection is left."""
        if not self._registry.connections:
            self._over.set()

    def end_wait(self) -> None:
        """End the wait."""
        self._over.set()

    async def wait(self, *, command_over: bool) -> None:
        """Wait until no rank is connected, or until the ranks' share of the grace is over.

        If the daemon's command is over, the ranks still connected had their time already. Their end is then
        decided by the command's exit status.
        """
        self._over.clear()
        if command_over:
            self._grace_s = None
        if self._signalled_s is None or not self._registry.connections:
            return
        share_s = limits.SHUTDOWN_GRACE_S
        if self._grace_s is not None:
            share_s = ranks_share_s(self._grace_s, forwards=self._forwards)
        left_s = self._signalled_s + share_s - self._clock()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._over.wait(), left_s)

    def overdue_runs(self) -> list[Run]:
        """Return the runs with ranks that are still connected although their share of the grace is over."""
        if self._signalled_s is None or self._grace_s is None:
            return []
        runs = self._registry.runs.values()
        return [run for run in runs if run.running and run.visited and not run.is_disconnected()]

    def left_s(self) -> float:
        """Return the rest of the grace in seconds, less GRACE_CLOSING_S; infinite without a grace."""
        if self._signalled_s is None or self._grace_s is None:
            return math.inf
        return max(0.0, self._signalled_s + self._grace_s - limits.GRACE_CLOSING_S - self._clock())
