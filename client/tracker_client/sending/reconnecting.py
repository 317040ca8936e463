"""When the sender tries the daemon again, and what the user is told of it meanwhile."""

from __future__ import annotations

import logging
import random
import time

from tracker_protocol import limits

logger = logging.getLogger("tracker_client")


class Reconnecting:
    """The time of the next attempt, ``due_at`` on the monotonic clock, in seconds.

    Attempts are spread over ``jitter_s`` seconds at least, so that the ranks of a large job do not all come
    at once. Nothing here is for other threads than the sender's.
    """

    def __init__(self, jitter_s: float) -> None:
        self.due_at = 0.0
        self.failures = 0
        self._jitter_s = jitter_s
        self._failing_since: float | None = None
        self._warned: set[str] = set()

    def begin(self) -> None:
        """Spread the first attempts of all ranks."""
        self.due_at = time.monotonic() + random.uniform(0, self._jitter_s)  # noqa: S311 - spreads load

    def hasten(self) -> None:
        """The run is over: try soon, whatever the delay was."""
        self.due_at = min(self.due_at, time.monotonic() + limits.RECONNECT_BACKOFF_MIN_S)

    def fail(self, problem: str, now: float, *, refused: bool) -> None:
        """A connection was lost, or did not come about."""
        self.failures += 1
        if refused:
            delay = random.uniform(0.5, 1) * limits.RECONNECT_BACKOFF_MAX_S  # noqa: S311 - spreads load
            self._warn_once(f"the daemon at {problem} (trying again; nothing is recorded meanwhile)")
        else:
            ceiling = limits.RECONNECT_BACKOFF_MIN_S * 2.0 ** min(self.failures - 1, 16)
            ceiling = min(max(ceiling, self._jitter_s), limits.RECONNECT_BACKOFF_MAX_S)
            delay = random.uniform(0, ceiling)  # noqa: S311 - spreads load
            self._warn_of_outage(problem, now)
        self.due_at = now + delay

    def await_endpoint(self, problem: str, now: float) -> None:
        """The daemon is starting: look again soon, but not all ranks of a large job at once."""
        self._warn_of_outage(problem, now)
        self.due_at = now + random.uniform(0.5, 1) * max(limits.ENDPOINT_POLL_S, self._jitter_s)  # noqa: S311 - spreads load

    def welcomed(self) -> None:
        """The outage, if there was one, is over; the next is told of again."""
        if self._failing_since is not None:
            self._failing_since = None
            self._warned = {text for text in self._warned if not text.startswith("no daemon")}

    def acknowledged(self) -> None:
        """The daemon works: the delays begin anew."""
        self.failures = 0

    def _warn_of_outage(self, problem: str, now: float) -> None:
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since >= limits.CONNECT_TIMEOUT_S:
            self._warn_once(f"no daemon answers ({problem}); values are buffered and sent once one does")

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            logger.warning("%s", text)
