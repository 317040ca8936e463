"""Divides gathered rows into contributions: cells that the same ranks reported, full by row and metric.

The values of a dense rank are in contributions of their own. The other ranks are reduced: their cells are
divided by the ranks that reported them. Usually all ranks did, and there is one contribution.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.node.dictionary import NodeDictionary
from tracker_daemon.aggregation.node.panel import Gathered
from tracker_daemon.aggregation.numbers.summary import Integers, summarize
from tracker_daemon.aggregation.shared.panel import Bits
from tracker_daemon.aggregation.values.batch import Kinds
from tracker_daemon.aggregation.values.contribution import Contribution
from tracker_protocol.kinds import Kind

_VALUES_REDUCED_AT_ONCE = 2**21
"""Bounds the memory of a reduction; so many values make more than one batch in any case."""
Rectangle = tuple[Integers, Integers]
"""Indices of rows, and of columns."""


def divide(attempt: int, gathered: Gathered, names: NodeDictionary) -> Iterator[Contribution]:
    """Yield everything that was seen, each value once: ranks' own values first, in order of rank."""
    for slot in np.flatnonzero(gathered.dense.any(axis=1)).tolist():
        own = gathered.seen[:, slot] & gathered.dense[slot]
        for rectangle in _of_one_row(gathered, _rectangles(own)):
            yield _contribution(attempt, gathered, names, rectangle, np.array([slot]))
    rest = gathered.seen & ~gathered.dense
    for slots, rows, columns in _by_ranks(rest):
        at_once = max(1, _VALUES_REDUCED_AT_ONCE // (len(slots) * len(columns)))
        for first in range(0, len(rows), at_once):
            some = rows[first : first + at_once], columns
            yield _contribution(attempt, gathered, names, some, slots)


def _of_one_row(gathered: Gathered, rectangles: Iterator[Rectangle]) -> Iterator[Rectangle]:
    """Divide rectangles so that the cells of a row in each are of one row of their reporter."""
    for rows, columns in rectangles:
        numbers = gathered.numbers[np.ix_(rows, columns)]
        if (numbers == numbers[:, :1]).all():
            yield rows, columns
        else:
            yield from ((rows, columns[j : j + 1]) for j in range(len(columns)))


def _contribution(
    attempt: int, gathered: Gathered, names: NodeDictionary, cells: Rectangle, slots: Integers
) -> Contribution:
    rows, columns = cells
    at = np.ix_(rows, slots, columns)
    values = gathered.values[at]
    ranks = gathered.ranks[slots]
    alone = len(slots) == 1
    kinds = None if gathered.kinds is None else gathered.kinds[at]
    return Contribution(
        attempt,
        ranks,
        names.keys(gathered.names[column] for column in columns.tolist()),
        gathered.steps[rows],
        gathered.occurrences[rows],
        gathered.times_ns[rows],
        gathered.bars[np.ix_(rows, columns)].max(axis=1),
        values[:, 0] if alone else None,
        None if alone else summarize(values, np.ones(values.shape, np.bool_), ranks),
        _row_numbers(gathered, cells, int(ranks[0])) if alone else None,
        kinds if kinds is None else _common_kinds(kinds),
    )


def _common_kinds(kinds: Kinds) -> Kinds | None:
    """Return the kind of each cell of ``kinds`` (rows, ranks, columns): that of its ranks, or FLOAT."""
    common = np.where((kinds == kinds[:, :1]).all(axis=1), kinds[:, 0], Kind.FLOAT)
    if kinds.shape[1] > 1:
        common[common == Kind.BOOL] = Kind.FLOAT
    return common.astype(np.uint8) if common.any() else None


def _row_numbers(gathered: Gathered, cells: Rectangle, rank: int) -> Integers | None:
    """Return the numbers of the rank's rows; None unless it reported all these cells first, row by row."""
    at = np.ix_(*cells)
    numbers = gathered.numbers[at]
    if (gathered.reporters[at] != rank).any() or (numbers != numbers[:, :1]).any():
        return None
    return numbers[:, 0]


def _by_ranks(mask: Bits) -> Iterator[tuple[Integers, Integers, Integers]]:
    """Divide the set bits of ``mask`` (rows, slots, columns) into full blocks; a cell has all its slots."""
    slots = np.flatnonzero(mask.any(axis=(0, 2)))
    if not len(slots):
        return
    mask = mask[:, slots]
    if mask.all():
        yield slots, np.arange(mask.shape[0]), np.arange(mask.shape[2])
        return
    i, j = np.nonzero(mask.any(axis=1))
    reporters = mask[i, :, j]
    for cells in _alike(reporters):
        # A mask of just the rows and columns that these ranks have something in.
        rows, at_row = np.unique(i[cells], return_inverse=True)
        columns, at_column = np.unique(j[cells], return_inverse=True)
        theirs = np.zeros((len(rows), len(columns)), np.bool_)
        theirs[at_row, at_column] = True
        for some_rows, some_columns in _rectangles(theirs):
            yield slots[reporters[cells[0]]], rows[some_rows], columns[some_columns]


def _rectangles(mask: Bits) -> Iterator[Rectangle]:
    """Divide the set bits of ``mask`` (rows, columns): rows with the same columns are together."""
    if mask.all():
        yield np.arange(mask.shape[0]), np.arange(mask.shape[1])
        return
    for rows in _alike(mask):
        columns = np.flatnonzero(mask[rows[0]])
        if len(columns):
            yield rows, columns


def _alike(mask: Bits) -> Iterator[Integers]:
    """Yield the indices of equal rows of ``mask``, together, in the order of each kind's first row."""
    packed = np.packbits(mask, axis=1)
    _, first, kind = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    first_alike = first[kind.reshape(-1)]
    order: NDArray[np.int64] = np.argsort(first_alike, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(first_alike[order])) + 1)
