"""Occurrences: a count of the times that a rank logs a metric at one step.

For each (rank, metric) the counter keeps the highest step logged as first, second, … occurrence:
``highs[o]``. A step's occurrence is the number of these highs at or above the step. So rising steps are
occurrence 0, and the same step again is 1. After a jump back to step s, all steps from s to the rank's
highest are the next occurrence; steps beyond are 0 again.

The highs never rise from one occurrence to the next. So equal ones are kept as a *run*: one high and its
length. A metric that is logged a thousand times at a step needs one run. The state is bounded by
OCCURRENCE_RUNS_MAX runs per rank and metric, and an occurrence by OCCURRENCES_PER_STEP_MAX. A value beyond
has no occurrence (UNPLACED).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tracker_protocol import limits

BEFORE_ANY_STEP = np.iinfo(np.int64).min
UNPLACED = -1
Runs = tuple[tuple[int, int], ...]
"""The highs of one rank and metric beyond the first occurrence, as (high, length)."""
Part = tuple[NDArray[np.int64], NDArray[np.int64]]
"""(column indices, the occurrences of the block's rows for each of them)."""


def next_occurrence(first: int, runs: Runs, step: int) -> tuple[int, int, Runs]:
    """Count ``step``; return its occurrence, and the new state: the first occurrence's high and the runs.

    The state stays as it is if the occurrence is UNPLACED.
    """
    if step > first:
        return 0, step, runs
    occurrence, position = 1, 0
    while position < len(runs) and runs[position][0] >= step:
        occurrence += runs[position][1]
        position += 1
    if occurrence >= limits.OCCURRENCES_PER_STEP_MAX:
        return UNPLACED, first, runs
    changed = _raised(runs, position, step)
    if len(changed) > limits.OCCURRENCE_RUNS_MAX:
        return UNPLACED, first, runs
    return occurrence, first, changed


def _raised(runs: Runs, position: int, step: int) -> Runs:
    """Return ``runs`` with the first high of the run at ``position``, or a new high, raised to ``step``."""
    before, rest = runs[:position], runs[position:]
    if rest:
        high, length = rest[0]
        rest = ((high, length - 1), *rest[1:]) if length > 1 else rest[1:]
    if before and before[-1][0] == step:
        return (*before[:-1], (step, before[-1][1] + 1), *rest)
    return (*before, (step, 1), *rest)


class OccurrenceCounter:
    """The counters of one panel: of each of its slots (ranks) and columns (metrics)."""

    def __init__(self, slots: int, columns: int) -> None:
        # Occurrence 0 for all slots, since every rank has one; the others only for ranks with repeats.
        self.first: NDArray[np.int64] = np.full((slots, columns), BEFORE_ANY_STEP, np.int64)
        self.repeats: dict[int, list[Runs]] = {}
        """By slot, the runs of each column."""

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
        """Count each (step, column) in order; yield the columns in groups that have equal occurrences.

        A value beyond the bounds is UNPLACED.
        """
        repeats = self.repeats.setdefault(slot, [()] * self.first.shape[1])
        alike: dict[tuple[int, Runs], list[int]] = {}
        for position, column in enumerate(columns.tolist()):
            state = int(self.first[slot, column]), repeats[column]
            alike.setdefault(state, []).append(position)
        for (first, runs), positions in alike.items():
            high, occurrences = first, []
            for step in steps.tolist():
                occurrence, high, runs = next_occurrence(high, runs, step)  # noqa: PLW2901 - the state so far
                occurrences.append(occurrence)
            here = np.array(positions, np.int64)
            self.first[slot, columns[here]] = high
            for position in positions:
                repeats[int(columns[position])] = runs
            yield here, np.array(occurrences, np.int64)
