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


@dataclass(frozen=True, slots=True, eq=False)
class PlanPart:
    """The columns of a block that go to one panel; ``block_columns`` None: all of them."""

    panel: int
    columns: Integers
    block_columns: Integers | None

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
        columns = np.array([column for _, index, column in placed if index == panel], np.int64)
        whole = len(block) == len(places)
        parts.append(PlanPart(panel, columns, None if whole else np.array(block, np.int64)))
    return tuple(parts)
