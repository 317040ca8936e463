"""Automatic steps: those that ranks count themselves. Each rank continues from its last one.

Ranks that count steps must log the same metrics at each step, or their steps drift apart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from tracker_daemon.aggregation.shared.books import Books

_STEPS_REMEMBERED = 4_096
KeySets = OrderedDict[int, frozenset[str]]
"""By step the metrics that the first rank to reach it logged there."""


class AutomaticSteps:
    """The automatic steps of the current attempt's ranks."""

    def __init__(self) -> None:
        self.next_step: dict[int, int] = {}
        """By rank the step after its last one."""
        self.first_step = 0
        """The first step of the current attempt, for every rank."""
        self.key_sets: KeySets = OrderedDict()

    def open_attempt(self) -> None:
        """Let all ranks continue from the furthest one, or their steps would differ from then on."""
        self.first_step = self.furthest()
        self.next_step.clear()
        self.key_sets.clear()

    def furthest(self) -> int:
        """Return the first step of the next attempt."""
        return max(self.next_step.values(), default=self.first_step)

    def of_rank(self, rank: int) -> int:
        """Return the next step of a rank of the current attempt."""
        return self.next_step.get(rank, self.first_step)

    def compare(
        self, rank: int, names: Iterable[str], steps: list[int], books: Books, notices: list[str]
    ) -> None:
        """Note the metrics that a rank logged at steps that it counted; warn once if ranks differ."""
        notice = self._difference(rank, frozenset(names), steps)
        if notice is not None:
            books.warn_once(notices, "automatic steps", notice)

    def _difference(self, rank: int, names: frozenset[str], steps: Iterable[int]) -> str | None:
        notice = None
        for step in steps:
            others = self.key_sets.setdefault(step, names)
            if others != names and notice is None:
                notice = (
                    f"at automatic step {step} rank {rank} logged {sorted(names)[:5]} and another rank "
                    f"{sorted(others)[:5]}: where ranks log different metrics, pass step= to log()"
                )
        while len(self.key_sets) > _STEPS_REMEMBERED:
            self.key_sets.popitem(last=False)
        return notice
