"""Occurrences: a count of the times that a rank logs a metric at one step.

For each (rank, metric) the counter keeps the highest step logged as first, second, … occurrence:
``highs[o]``. A step's occurrence is the number of these highs at or above the step. So rising steps are
occurrence 0, and the same step again is 1. After a jump back to step s, all steps from s to the rank's
highest are the next occurrence; steps beyond are 0 again. The state is bounded by OCCURRENCES_PER_STEP_MAX
steps per rank and metric.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tracker_protocol import limits

BEFORE_ANY_STEP = np.iinfo(np.int64).min
Part = tuple[int, NDArray[np.int64], NDArray[np.int64]]
"""(occurrence, row indices, column indices) of a block."""


class OccurrenceCounter:
    """The counters of one panel: of each of its slots (ranks) and columns (metrics)."""

    def __init__(self, slots: int, columns: int) -> None:
        # Occurrence 0 for all slots, since every rank has one; the others only for ranks with repeats.
        self.first: NDArray[np.int64] = np.full((slots, columns), BEFORE_ANY_STEP, np.int64)
        self.repeats: dict[int, NDArray[np.int64]] = {}

    def grow(self, slots: int) -> None:
        """Make room for ``slots`` slots."""
        grown = np.full((slots, self.first.shape[1]), BEFORE_ANY_STEP, np.int64)
        grown[: len(self.first)] = self.first
        self.first = grown

    def advance(self, slot: int, columns: NDArray[np.int64] | slice, steps: NDArray[np.int64]) -> bool:
        """Count rising ``steps`` that are new to all ``columns``; else change nothing and return False."""
        highs = self.first[slot]
        rising = len(steps) == 1 or bool((steps[1:] > steps[:-1]).all())
        if steps[0] <= highs[columns].max() or not rising:
            return False
        highs[columns] = steps[-1]
        return True

    def assign(self, slot: int, columns: NDArray[np.int64], steps: NDArray[np.int64]) -> Iterator[Part]:
        """Count each (step, column) in order; yield parts of equal occurrence, one row at a time.

        The caller rejects an occurrence of OCCURRENCES_PER_STEP_MAX or more.
        """
        if slot not in self.repeats:
            shape = (limits.OCCURRENCES_PER_STEP_MAX - 1, self.first.shape[1])
            self.repeats[slot] = np.full(shape, BEFORE_ANY_STEP, np.int64)
        repeats = self.repeats[slot]
        for row, step in enumerate(steps.tolist()):
            levels = np.vstack((self.first[slot, columns], repeats[:, columns]))
            occurrences = (levels >= step).sum(axis=0)
            for occurrence in np.unique(occurrences).tolist():
                at = np.flatnonzero(occurrences == occurrence)
                self._raise_high(slot, occurrence, columns[at], step)
                yield occurrence, np.array([row]), at

    def _raise_high(self, slot: int, occurrence: int, columns: NDArray[np.int64], step: int) -> None:
        if occurrence == 0:
            self.first[slot, columns] = step
        elif occurrence < limits.OCCURRENCES_PER_STEP_MAX:
            self.repeats[slot][occurrence - 1, columns] = step
