"""Placement: the panel, and its columns, in which each column of a block is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.values.batch import Kinds, Rows

Place = tuple[int, int]
"""The index of a panel, and of one of its columns."""
Index = Integers | slice
"""Indices on one axis of an array; a slice where they are consecutive, since numpy copies nothing then."""


def index_of(numbers: Sequence[int]) -> Index:
    """Return ``numbers`` as an index: a slice if each is the successor of the one before."""
    first, end = numbers[0], numbers[0] + len(numbers)
    if numbers[-1] + 1 == end and (len(numbers) <= 2 or list(numbers) == list(range(first, end))):
        return slice(first, end)
    return np.array(numbers, np.int64)


def numbers_of(index: Index) -> Integers:
    """Return the numbers that an index selects."""
    return np.arange(index.start, index.stop) if isinstance(index, slice) else index


def cells_at(rows: Index, columns: Index) -> tuple[Index, Index]:
    """Return ``rows`` and ``columns`` as indices of two axes that select each row with each column."""
    if isinstance(rows, slice) or isinstance(columns, slice):
        return rows, columns
    return rows[:, None], columns


@dataclass(frozen=True, slots=True, eq=False)
class PlanPart:
    """The columns of a block that go to one panel; ``block_columns`` None: all of them.

    ``index`` selects the ``columns`` in the panel's arrays.
    """

    panel: int
    columns: Integers
    index: Index
    block_columns: Index | None

    def of_block(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return these columns of a block's ``values``, which are (rows, columns of the block)."""
        return values if self.block_columns is None else values[:, self.block_columns]

    def kinds_of(self, block: Rows) -> Kinds | None:
        """Return the kinds of these columns; None if all values are floats."""
        if block.kinds is None or self.block_columns is None:
            return block.kinds
        kinds = block.kinds[:, self.block_columns]
        return kinds if kinds.any() else None


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The places of a block's columns; ``names`` leaves out the ``refused`` columns, which have none."""

    names: tuple[str, ...]
    parts: tuple[PlanPart, ...]
    refused: int


def plan_parts(places: Sequence[Place | None]) -> tuple[PlanPart, ...]:
    """Group a block's columns by panel, in order; ``places`` has None for a column that is stored nowhere."""
    placed = [(i, *place) for i, place in enumerate(places) if place is not None]
    parts = []
    for panel in dict.fromkeys(panel for _, panel, _ in placed):
        block = [i for i, index, _ in placed if index == panel]
        columns = [column for _, index, column in placed if index == panel]
        taken = None if len(block) == len(places) else index_of(block)
        parts.append(PlanPart(panel, np.array(columns, np.int64), index_of(columns), taken))
    return tuple(parts)
