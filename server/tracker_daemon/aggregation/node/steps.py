"""Steps that ranks of a node count themselves: where each goes on, and which metrics each step had.

Ranks that count steps must log the same things, or their steps drift apart. Those of one node are compared
here; what the first of them logged at a step is told, so that the root can compare nodes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from tracker_daemon.aggregation.node.dictionary import NodeDictionary
from tracker_daemon.aggregation.shared import automatic_steps
from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.shared.contribution import StepKeys


@dataclass(slots=True, eq=False)
class UnsentSteps:
    """Steps, one after the other, at which ``rank`` was the first to log, and logged these metrics."""

    rank: int
    names: tuple[str, ...]
    steps: list[int]


class NodeSteps:
    """The steps of the current attempt's ranks."""

    def __init__(self) -> None:
        self.next_step: dict[int, int] = {}
        self.first_step = 0
        """Where the current attempt begins, for every rank."""
        self.keys: automatic_steps.KeySets = OrderedDict()
        self.untold: list[UnsentSteps] = []

    def open_attempt(self) -> None:
        """All ranks go on from where the furthest one was, or their steps would differ from then on."""
        self.first_step = self.furthest()
        self.next_step.clear()
        self.keys.clear()
        # The root compares within its current attempt.
        self.untold.clear()

    def furthest(self) -> int:
        """Where the next attempt would begin."""
        return max(self.next_step.values(), default=self.first_step)

    def compare(
        self, rank: int, names: tuple[str, ...], steps: list[int], books: Books, notices: list[str]
    ) -> None:
        """Take note of what a rank logged at steps that it counted, and warn once where ranks differ."""
        for step in dict.fromkeys(steps):
            if step not in self.keys:
                self._tell(rank, names, step)
        notice = automatic_steps.compare(self.keys, rank, frozenset(names), steps)
        if notice is not None:
            books.warn_once(notices, "automatic steps", notice)

    def _tell(self, rank: int, names: tuple[str, ...], step: int) -> None:
        last = self.untold[-1] if self.untold else None
        if last is not None and (last.rank, last.names) == (rank, names):
            last.steps.append(step)
        else:
            self.untold.append(UnsentSteps(rank, names, [step]))

    def take(self, names: NodeDictionary, attempt: int) -> tuple[StepKeys, ...]:
        """Remove and return everything that was not forwarded; ``attempt`` is the current one."""
        taken = tuple(
            StepKeys(attempt, unsent.rank, names.keys(unsent.names), np.array(unsent.steps, np.int64))
            for unsent in self.untold
        )
        self.untold.clear()
        return taken
