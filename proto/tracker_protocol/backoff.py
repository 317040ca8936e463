"""The wait before the next attempt: exponential back-off with jitter, for client and daemon.

Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015. This module computes the
length of a wait in seconds. Its callers do the waiting.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

_DOUBLINGS_MAX = 32
"""Further doublings would only grow a number that ``max_s`` cuts."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double with each failure, from ``min_s`` up to ``max_s`` seconds, with a random part.

    The longest wait after n failures is ``min_s`` · 2ⁿ⁻¹, but at least ``spread_s`` and at most ``max_s``.
    ``certain_share`` of the longest wait is certain; the rest is drawn at random.

    * With ``certain_share`` 0.5 (the default) a failing service is never called again at once.
    * With ``certain_share`` 0 the callers of one service spread most evenly ("full jitter").
    * ``spread_s`` spreads the first attempts of many callers that failed together.
    """

    min_s: float
    max_s: float
    certain_share: float = 0.5
    spread_s: float = 0.0

    def wait_s(self, failures: int, draw: float | None = None) -> float:
        """Return the wait in seconds after ``failures`` failures in a row (at least one).

        ``draw`` in [0, 1) replaces the random number.
        """
        doubled = self.min_s * 2.0 ** min(failures - 1, _DOUBLINGS_MAX)
        return jittered_s(min(self.max_s, max(doubled, self.spread_s)), self.certain_share, draw)


def jittered_s(longest_s: float, certain_share: float = 0.5, draw: float | None = None) -> float:
    """Return a random wait between ``certain_share`` · ``longest_s`` and ``longest_s`` seconds."""
    share = random.random() if draw is None else draw  # noqa: S311  # a jitter, not a secret
    return longest_s * (certain_share + (1 - certain_share) * share)
