"""Ranks that count steps themselves must log the same metrics at each, or their steps drift apart."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

_STEPS_REMEMBERED = 4_096
KeySets = OrderedDict[int, frozenset[str]]
"""What the first rank to come to a step logged at it."""


def compare(known: KeySets, rank: int, keys: frozenset[str], steps: Iterable[int]) -> str | None:
    """Note that ``rank`` logged ``keys`` at these steps; what to say where another rank logged others."""
    notice = None
    for step in steps:
        others = known.setdefault(step, keys)
        if others != keys and notice is None:
            notice = (
                f"at automatic step {step} rank {rank} logged {sorted(keys)[:5]} and another rank "
                f"{sorted(others)[:5]}: where ranks log different metrics, pass step= to log()"
            )
    while len(known) > _STEPS_REMEMBERED:
        known.popitem(last=False)
    return notice
