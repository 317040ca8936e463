"""Summaries from nodes' daemons of a panel's cells, merged as they arrive.

A cell may have values of some ranks, which the panel holds, and a summary over others. The summaries of all
cells are in one array. So a contribution of many cells is merged in one operation. A cell without a summary
has one over no rank.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.numbers.reduction import Reduced, reduce_ranks
from tracker_daemon.aggregation.numbers.summary import (
    FIELDS,
    Floats,
    Integers,
    Summary,
    merge,
    statistics,
    summarize,
)

_FLOATS = ("mean", "std", "minimum", "maximum")
_INTEGERS = tuple(name for name in FIELDS if name not in _FLOATS)


class Accumulators:
    """The summaries of ``rows`` × ``columns`` cells: ``floats`` (4, rows, columns), ``integers`` (6, …).

    ``valued`` (rows, places, columns) marks the ranks that have sent values of their own and are in no
    summary. ``fractional`` (rows, columns) marks summaries over a value that was not logged as an integer.
    """

    def __init__(self, rows: int, columns: int, valued: NDArray[np.bool_]) -> None:
        self.valued = valued
        self.floats: Floats = np.zeros((len(_FLOATS), rows, columns))
        self.integers: Integers = np.zeros((len(_INTEGERS), rows, columns), np.int64)
        self.fractional = np.zeros((rows, columns), np.bool_)

    @property
    def nbytes(self) -> int:
        """The memory that they hold."""
        return self.floats.nbytes + self.integers.nbytes + self.valued.nbytes + self.fractional.nbytes

    def grow(self, rows: int) -> None:
        """Make room for ``rows`` rows."""
        self.floats, self.integers = with_room(self.floats, rows), with_room(self.integers, rows)
        valued = np.zeros((rows, *self.valued.shape[1:]), np.bool_)
        valued[: len(self.valued)] = self.valued
        self.valued = valued
        fractional = np.zeros((rows, self.fractional.shape[1]), np.bool_)
        fractional[: len(self.fractional)] = self.fractional
        self.fractional = fractional

    def clear(self, rows: Integers | slice) -> None:
        """Reset these rows to summaries over no rank."""
        self.floats[:, rows] = 0.0
        self.integers[:, rows] = 0
        self.valued[rows] = False
        self.fractional[rows] = False

    def at(self, rows: Integers, columns: Integers) -> Summary:
        """Return the summaries at ``rows`` × ``columns``."""
        floats = self.floats[:, rows[:, None], columns]
        integers = self.integers[:, rows[:, None], columns]
        named = dict(zip((*_FLOATS, *_INTEGERS), (*floats, *integers), strict=True))
        return Summary(**named)

    def add(
        self, rows: Integers, columns: Integers, summary: Summary, fractional: NDArray[np.bool_] | None
    ) -> None:
        """Merge ``summary``, over ranks that these cells do not have yet, into them.

        ``fractional`` marks cells with a value that is no integer; None: all cells.
        """
        self.fractional[rows[:, None], columns] |= True if fractional is None else fractional
        held = self.at(rows, columns)
        merged = merge(held, summary) if held.count.any() else summary
        self.floats[:, rows[:, None], columns] = [getattr(merged, name) for name in _FLOATS]
        self.integers[:, rows[:, None], columns] = [getattr(merged, name) for name in _INTEGERS]


def with_room(array: NDArray[Any], places: int) -> NDArray[Any]:
    """Return a copy of ``array``, of three axes, with zeros up to ``places`` on the middle one."""
    grown = np.zeros((array.shape[0], places, array.shape[2]), array.dtype)
    grown[:, : array.shape[1]] = array
    return grown


def reduce_with(
    values: Floats, seen: NDArray[np.bool_], ranks: list[int], accumulated: Summary | None
) -> Reduced:
    """Reduce ``values`` of shape (n rows, ranks, m metrics) over the ranks, together with ``accumulated``.

    ``ranks`` are those of the middle axis, ascending, and ``seen`` marks the values that exist. A cell
    without a summary has the result that it would have without any summaries.
    """
    if accumulated is None:
        return reduce_ranks(values, seen)
    if not ranks:
        return statistics(accumulated)
    by_rank = reduce_ranks(values, seen)
    mixed = statistics(merge(summarize(values, seen, np.array(ranks, np.int64)), accumulated))
    some = accumulated.count > 0
    return Reduced(
        np.where(some, mixed.count, by_rank.count),
        np.where(some, mixed.mean, by_rank.mean),
        np.where(some, mixed.minimum, by_rank.minimum),
        np.where(some, mixed.maximum, by_rank.maximum),
        np.where(some, mixed.std, by_rank.std),
    )
