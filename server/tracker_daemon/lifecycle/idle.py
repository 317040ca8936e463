"""When a daemon that nobody stops ends by itself: a pure rule over what the daemon sees.

*Idle*: no rank is connected, no run is going on, everything is delivered. *Orphaned*: no rank is
connected, whatever else is left; deliveries that get on count as life. Each for its own time; None: never.
"""

from __future__ import annotations


class IdleWatch:
    """Told at short intervals what is going on. Times are in seconds, on a monotonic clock."""

    def __init__(self, idle_timeout_s: float | None, orphan_timeout_s: float | None, now_s: float) -> None:
        self._idle_timeout_s = idle_timeout_s
        self._orphan_timeout_s = orphan_timeout_s
        self._busy_s = now_s
        self._alive_s = now_s
        self._progress = 0

    def reason(self, now_s: float, *, connected: bool, busy: bool, progress: int) -> str | None:
        """Why it is time to end; None while it is not.

        ``busy``: a run is going on, or something is to be delivered. ``progress`` grows with deliveries.
        """
        if connected or busy:
            self._busy_s = now_s
        if connected or progress != self._progress:
            self._alive_s = now_s
        self._progress = progress
        if self._idle_timeout_s is not None and now_s - self._busy_s >= self._idle_timeout_s:
            return f"nobody needed this daemon for {self._idle_timeout_s:g} s"
        if self._orphan_timeout_s is not None and now_s - self._alive_s >= self._orphan_timeout_s:
            return f"no rank was connected for {self._orphan_timeout_s:g} s"
        return None
