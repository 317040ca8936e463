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

    ``ranks`` ascend; ``keys`` index the node's dictionary; ``steps``, ``occurrences``, ``times_ns`` and
    ``bars`` are (n,), each pair of step and occurrence once. A bar is the highest step that the cells' first
    reporter had logged when it reported them. One rank has its ``values`` (n, k), several a summary.

    ``row_numbers`` (n,) are those of the single rank's stream, None if they are unknown. ``kinds`` (n, k) are
    as those of :class:`Rows`; of several ranks a cell is an integer only if each rank's value is one.
    """

    attempt: int
    ranks: Integers
    keys: tuple[int, ...]
    steps: Integers
    occurrences: Integers
    times_ns: Integers
    bars: Integers
    values: Floats | None
    summary: Summary | None
    row_numbers: Integers | None = None
    kinds: NDArray[np.uint8] | None = None

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
            self.bars[rows],
            None if self.values is None else self.values[rows, columns],
            None if self.summary is None else self.summary[rows, columns],
            None if self.row_numbers is None else self.row_numbers[rows],
            None if self.kinds is None else self.kinds[rows, columns],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """The last and the highest step of each of ``ranks`` (or NO_STEP), and which ranks have flushed.

    The highest step is that of values that the root has received. Each array is (r,).
    """

    attempt: int
    ranks: Integers
    last_steps: Integers
    highest_steps: Integers
    flushed: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class StepKeys:
    """The metrics, by the node's dictionary, that a rank logged at ``steps`` that it counted itself."""

    attempt: int
    rank: int
    keys: tuple[int, ...]
    steps: Integers
