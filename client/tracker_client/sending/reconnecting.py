"""The time of the next attempt to connect, and the user's warnings about an outage. Free of clocks.

Times are on the monotonic clock, in seconds, and are passed in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from tracker_client.values.printing import show
from tracker_protocol import limits
from tracker_protocol.backoff import Backoff, jittered_s

_OUTAGE = "no daemon answers"


class Reconnecting:
    """Schedules attempts to connect; ``due_at`` is the time of the next one.

    Attempts are spread over at least ``spread_s`` seconds, so that the ranks of a large job do not all
    connect at once. Only the sender's thread may use it.
    """

    def __init__(self, spread_s: float, warn: Callable[[str, int], None] = show) -> None:
        self.due_at = 0.0
        self._spread_s = spread_s
        self._warn = warn
        self._backoff = Backoff(
            limits.RECONNECT_BACKOFF_MIN_S,
            limits.RECONNECT_BACKOFF_MAX_S,
            certain_share=0.0,
            spread_s=spread_s,
        )
        self._refused_wait_s = limits.RECONNECT_BACKOFF_MAX_S
        self._failures = 0
        self._failing_since: float | None = None
        self._warned: set[str] = set()

    def begin(self, now: float) -> None:
        """Spread the first attempts of all ranks."""
        self.due_at = now + jittered_s(self._spread_s, certain_share=0.0)

    def hasten(self, now: float) -> None:
        """Try soon, whatever the delay was: the run is over."""
        self.due_at = min(self.due_at, now + limits.RECONNECT_BACKOFF_MIN_S)

    def fail(self, problem: str, now: float, *, refused: bool) -> None:
        """Schedule the next attempt after a connection was lost, refused or not made."""
        self._failures += 1
        if refused:
            self._warn_once(f"the daemon at {problem} (trying again; nothing is recorded meanwhile)")
            self.due_at = now + jittered_s(self._refused_wait_s)
        else:
            self._warn_of_outage(problem, now)
            self.due_at = now + self._backoff.wait_s(self._failures)

    def await_endpoint(self, problem: str, now: float, *, missing: bool = False) -> None:
        """Look for the endpoint again soon, since the daemon is starting; spread the ranks of a large job.

        ``missing``: the daemon may have started where this process does not look. That is an error in time.
        """
        self._warn_of_outage(problem, now, logging.ERROR if missing else logging.WARNING)
        self.due_at = now + jittered_s(max(limits.ENDPOINT_POLL_S, self._spread_s))

    def welcomed(self) -> None:
        """End the outage, if there was one, so that the next outage is warned about again."""
        if self._failing_since is not None:
            self._failing_since = None
            self._warned = {text for text in self._warned if not text.startswith(_OUTAGE)}

    def acknowledged(self) -> None:
        """Reset the delays: the daemon works."""
        self._failures = 0

    def _warn_of_outage(self, problem: str, now: float, level: int = logging.WARNING) -> None:
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since >= limits.CONNECT_TIMEOUT_S:
            self._warn_once(f"{_OUTAGE} ({problem}); values are buffered and sent once one does", level)

    def _warn_once(self, text: str, level: int = logging.WARNING) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._warn(text, level)
