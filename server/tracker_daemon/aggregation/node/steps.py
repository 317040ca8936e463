"""Automatic steps at a node: the metrics of each step are sent to the root, which compares nodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracker_daemon.aggregation.node.dictionary import NodeDictionary
from tracker_daemon.aggregation.shared.automatic_steps import AutomaticSteps
from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.values.contribution import StepKeys


@dataclass(slots=True, eq=False)
class UnsentSteps:
    """Consecutive steps at which ``rank`` was the first to log; it logged the metrics ``names``."""

    rank: int
    names: tuple[str, ...]
    steps: list[int]


class NodeSteps(AutomaticSteps):
    """The automatic steps of the node's ranks in the current attempt, and those that the root needs."""

    def __init__(self) -> None:
        super().__init__()
        self.unsent: list[UnsentSteps] = []

    def open_attempt(self) -> None:
        """Let all ranks continue from the furthest one; the root compares within its current attempt."""
        super().open_attempt()
        self.unsent.clear()

    def compare_and_send(
        self, rank: int, names: tuple[str, ...], steps: list[int], books: Books, notices: list[str]
    ) -> None:
        """Compare the node's ranks, as :meth:`compare` does; send each step's first metrics to the root."""
        for step in dict.fromkeys(steps):
            if step not in self.key_sets:
                self._send(rank, names, step)
        self.compare(rank, names, steps, books, notices)

    def _send(self, rank: int, names: tuple[str, ...], step: int) -> None:
        last = self.unsent[-1] if self.unsent else None
        if last is not None and (last.rank, last.names) == (rank, names):
            last.steps.append(step)
        else:
            self.unsent.append(UnsentSteps(rank, names, [step]))

    def take(self, names: NodeDictionary, attempt: int) -> tuple[StepKeys, ...]:
        """Remove and return the unsent steps; ``attempt`` is the current one."""
        taken = tuple(
            StepKeys(attempt, unsent.rank, names.keys(unsent.names), np.array(unsent.steps, np.int64))
            for unsent in self.unsent
        )
        self.unsent.clear()
        return taken
