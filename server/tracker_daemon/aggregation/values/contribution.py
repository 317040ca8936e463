"""Contributions: cells of a node's ranks, and these ranks' progress, as the node's daemon sends them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.numbers.summary import Floats, Integers, Summary

NO_STEP = np.iinfo(np.int64).min
"""The last step of a rank that has logged none."""


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """n × k cells that all of ``ranks`` reported, and no other rank of the node's did in this message.

    ``ranks`` ascend; ``keys`` index the node's dictionary; ``steps``, ``occurrences`` and ``times_ns`` are
    (n,), each pair of step and occurrence once. One rank has its ``values`` (n, k), several a summary.
    """

    attempt: int
    ranks: Integers
    keys: tuple[int, ...]
    steps: Integers
    occurrences: Integers
    times_ns: Integers
    values: Floats | None
    summary: Summary | None

    @property
    def points(self) -> int:
        """The number of ranks' values in it."""
        return len(self.ranks) * len(self.keys) * len(self.steps)

    def part(self, rows: slice, columns: slice) -> Contribution:
        """Return some rows and columns of it."""
        return Contribution(
            self.attempt,
            self.ranks,
            self.keys[columns],
            self.steps[rows],
            self.occurrences[rows],
            self.times_ns[rows],
            None if self.values is None else self.values[rows, columns],
            None if self.summary is None else self.summary[rows, columns],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """The last step of each of ``ranks`` (or NO_STEP), and which ranks have flushed. Each array is (r,)."""

    attempt: int
    ranks: Integers
    last_steps: Integers
    flushed: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class StepKeys:
    """The metrics, by the node's dictionary, that a rank logged at ``steps`` that it counted itself."""

    attempt: int
    rank: int
    keys: tuple[int, ...]
    steps: Integers
