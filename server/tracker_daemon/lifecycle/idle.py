"""The rule by which a daemon ends by itself. Pure.

* *Idle*: no rank is connected, no run is running, and everything is delivered.
* *Orphaned*: no rank is connected and no delivery succeeds, whatever is left.
* *Abandoned*: idle, and the programs that started the ranks have ended.

Each state has its own timeout, after which the daemon ends; None: never.
"""

from __future__ import annotations

from collections.abc import Callable


class IdleWatch:
    """Watches a daemon's activity. Times are in seconds, on a monotonic clock."""

    def __init__(
        self,
        idle_timeout_s: float | None,
        orphan_timeout_s: float | None,
        now_s: float,
        abandoned_timeout_s: float | None = None,
    ) -> None:
        self._idle_timeout_s = idle_timeout_s
        self._orphan_timeout_s = orphan_timeout_s
        self._abandoned_timeout_s = abandoned_timeout_s
        self._last_busy_s = now_s
        self._last_alive_s = now_s
        self._last_launcher_s = now_s
        self._progress = 0

    def reason(
        self,
        now_s: float,
        *,
        connected: bool,
        busy: bool,
        progress: int,
        has_launcher: Callable[[], bool] = lambda: True,
    ) -> str | None:
        """Return the reason to end now; None if there is none. Called at short intervals.

        ``busy``: a run is running, or something is to be delivered. ``progress`` grows with each delivery.
        ``has_launcher()`` is True if a program that started ranks lives, or if that is unknown.
        """
        if connected or busy:
            self._last_busy_s = now_s
        abandoned_s = self._abandoned_timeout_s
        if abandoned_s is not None and (self._last_busy_s == now_s or has_launcher()):
            self._last_launcher_s = now_s
        if connected or progress != self._progress:
            self._last_alive_s = now_s
        self._progress = progress
        if self._idle_timeout_s is not None and now_s - self._last_busy_s >= self._idle_timeout_s:
            return f"nobody needed this daemon for {self._idle_timeout_s:g} s"
        if abandoned_s is not None and now_s - self._last_launcher_s >= abandoned_s:
            return "all is delivered, and what started the ranks has ended"
        if self._orphan_timeout_s is not None and now_s - self._last_alive_s >= self._orphan_timeout_s:
            return f"no rank was connected for {self._orphan_timeout_s:g} s"
        return None
