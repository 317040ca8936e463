"""Bars: the highest step that a rank had logged when it logged each of its rows.

A rank whose highest step is above a cell's bar has passed the cell: it logs no value for it any more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.values.batch import Rows, TextRows


def bars_of(blocks: Sequence[Rows | TextRows], before: int) -> list[Integers]:
    """Return the bars of each block of a batch; ``before`` is the rank's highest step before it."""
    first = blocks[0]
    if len(blocks) == 1 or all(np.array_equal(first.row_numbers, other.row_numbers) for other in blocks[1:]):
        return [np.maximum(np.maximum.accumulate(first.steps), before)] * len(blocks)
    numbers = np.concatenate([block.row_numbers for block in blocks])
    order = np.argsort(numbers, kind="stable")
    highest = np.empty(len(order), np.int64)
    steps = np.concatenate([block.steps for block in blocks])
    highest[order] = np.maximum(np.maximum.accumulate(steps[order]), before)
    ends = np.cumsum([len(block.steps) for block in blocks])
    return np.split(highest, ends[:-1])
