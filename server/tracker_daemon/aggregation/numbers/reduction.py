"""The numbers: mean, minimum, maximum and population standard deviation across ranks.

Sums run strictly in rank order, and a rank without a value adds 0.0. So a cell's result depends on the ranks'
values alone, and not on the batches, metrics or rows that are reduced beside it. NaN and infinity have the
effect that they have in numpy's own functions.

Variance is the corrected two-pass form (Chan, Golub and LeVeque, "Algorithms for computing the
sample variance", 1983, eq. 1.7): the sum of deviations from the computed mean, zero but for
rounding, corrects both mean and variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CHUNK_VALUES = 1 << 17
"""Values reduced at a time, so that the temporaries stay in the processor's cache."""
_SCALE = 2.0**-600
"""Brings values whose squares are beyond the range of floating point back into it, exactly."""


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """Statistics over ranks, each of shape (n, m). Where ``count`` is 0 the others mean nothing."""

    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    std: NDArray[np.float64]


def reduce_ranks(values: NDArray[np.float64], seen: NDArray[np.bool_]) -> Reduced:
    """Reduce ``values`` of shape (n rows, ranks in ascending order, m metrics) over the ranks.

    ``seen``, of the same shape, marks the values that exist; the others are ignored.
    """
    n, ranks, m = values.shape
    # Indexing may have left another order in memory, in which numpy would sum in another order.
    values = np.ascontiguousarray(values)
    result = Reduced(
        np.add.reduce(seen, axis=1, dtype=np.int64),
        np.empty((n, m)),
        np.empty((n, m)),
        np.empty((n, m)),
        np.empty((n, m)),
    )
    rows_per_chunk = max(1, _CHUNK_VALUES // max(1, ranks * m))
    with np.errstate(all="ignore"):
        for start in range(0, n, rows_per_chunk):
            _reduce_chunk(values, seen, slice(start, start + rows_per_chunk), result)
    for statistic in (result.mean, result.minimum, result.maximum, result.std):
        make_canonical(statistic)
    return result


def _reduce_chunk(values: NDArray[np.float64], seen: NDArray[np.bool_], rows: slice, result: Reduced) -> None:
    x, here, count = values[rows], seen[rows], result.count[rows]
    complete = bool(here.all())
    mean = sum_in_rank_order(x if complete else np.where(here, x, 0.0)) / count
    std, correction = _deviation(x, None if complete else here, mean, count)
    corrected = mean + correction
    # With an infinity among the values the deviations are NaN, but the mean is not.
    result.mean[rows] = np.where(np.isfinite(corrected), corrected, mean)
    overflown = np.isfinite(mean) & ~np.isfinite(std)
    if overflown.any():
        scaled, _ = _deviation(x * _SCALE, None if complete else here, mean * _SCALE, count)
        std = np.where(overflown, scaled / _SCALE, std)
    result.std[rows] = std
    result.minimum[rows] = (x if complete else np.where(here, x, np.inf)).min(axis=1)
    result.maximum[rows] = (x if complete else np.where(here, x, -np.inf)).max(axis=1)


def _deviation(
    x: NDArray[np.float64],
    here: NDArray[np.bool_] | None,
    mean: NDArray[np.float64],
    count: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the standard deviation, and the correction of the mean."""
    deviations = x - mean[:, None, :]
    if here is not None:
        deviations = np.where(here, deviations, 0.0)
    drift = sum_in_rank_order(deviations)
    squares = sum_in_rank_order(np.multiply(deviations, deviations, out=deviations))
    correction = drift / count
    return np.sqrt(np.maximum(squares - drift * correction, 0.0) / count), correction


def make_canonical(statistic: NDArray[np.float64]) -> None:
    """Make all zeros equal, and all NaNs: an operation's choice among them depends on the processor."""
    statistic += 0.0
    statistic[np.isnan(statistic)] = np.nan


def sum_in_rank_order(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over axis 1, one rank after the other.

    With several metrics numpy adds whole rows of them, rank by rank. With one metric numpy would sum pairwise
    along the ranks, and the bits would depend on the metrics reduced beside it.
    """
    if x.shape[2] == 1:
        total: NDArray[np.float64] = np.add.accumulate(x, axis=1)[:, -1]
    else:
        total = np.add.reduce(x, axis=1)
    return total
