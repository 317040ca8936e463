"""How long to wait before trying again: exponential back-off with full jitter.

Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015. Only the length
of a wait is decided here; the pump does the waiting, on a condition that can wake it early.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tracker_protocol import limits

_DOUBLINGS_MAX = 32
"""Beyond this the power would only grow a number that the cap cuts anyway."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between ``min_s`` · 2ⁿ / 2 and ``min_s`` · 2ⁿ after n + 1 failures, up to ``max_s``.

    Half of each wait is certain, so that a failing backend is never hammered; the other half is
    drawn at random, so that the backends of many runs do not return in step.
    """

    min_s: float = limits.DELIVERY_BACKOFF_MIN_S
    max_s: float = limits.DELIVERY_BACKOFF_MAX_S

    def wait_s(self, failures: int, draw: float | None = None) -> float:
        """The wait in seconds after ``failures`` failures in a row (at least one).

        ``draw`` in [0, 1) replaces the random number.
        """
        longest = min(self.max_s, self.min_s * 2.0 ** min(failures - 1, _DOUBLINGS_MAX))
        share = random.random() if draw is None else draw  # noqa: S311  # a jitter, not a secret
        return longest * (0.5 + 0.5 * share)
