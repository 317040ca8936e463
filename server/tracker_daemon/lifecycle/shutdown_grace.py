"""The last words of ranks, when the signal that ends the daemon may be for its whole job.

A batch system sends SIGTERM to everything that a job runs and, a *grace* later, SIGKILL. A daemon that was
told how long that is takes the signal for the job's end: ranks have most of the grace, and those that outstay
it have ended as far as their runs are concerned, since nobody will be there to see it. A daemon that was told
nothing may as well be restarted: it serves ranks for a short while, and runs with connected ranks go on with
the next daemon.
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
    """Waits for them; on the event loop. ``forwards``: there is a daemon above that has to hear them too."""

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

    def signalled(self, number: signal.Signals) -> None:
        """The daemon has got the signal that ends it; Ctrl-C is for the daemon alone, not for its job."""
        self._signalled_s = self._clock()
        if number != signal.SIGTERM:
            self._grace_s = None

    def someone_left(self) -> None:
        """A connection has ended."""
        if not self._registry.connections:
            self._over.set()

    def cut_short(self) -> None:
        """Wait no longer."""
        self._over.set()

    async def wait(self, *, command_over: bool) -> None:
        """Until no rank is connected any more, or their time is over.

        Where the daemon's command is over, who is still connected had that time already, and how the command
        ended stands for it.
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

    def outstayed(self) -> list[Run]:
        """Runs of which ranks are still connected, though their job is as good as over."""
        if self._signalled_s is None or self._grace_s is None:
            return []
        runs = self._registry.runs.values()
        return [run for run in runs if run.running and run.visited and not run.is_disconnected()]

    def left_s(self) -> float:
        """What is left of the grace, in seconds, less what closing takes; infinite where there is none."""
        if self._signalled_s is None or self._grace_s is None:
            return math.inf
        return max(0.0, self._signalled_s + self._grace_s - limits.GRACE_CLOSING_S - self._clock())
