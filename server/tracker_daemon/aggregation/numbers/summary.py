"""Summaries: statistics of a cell that a daemon sends to another, in place of every rank's value.

A summary is over a set of ranks. Summaries of disjoint sets merge, in any order, into that of their union.
Any summary yields the statistics that are recorded. It has statistics of the finite values, and counts the
others by kind. So the results equal those of numpy over all values.

Means and deviations merge after Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
computing sample variances" (1979), eq. 2.1. Its sum of squares, M2, may leave the range of floating point
although the values do not. So the summary has the population standard deviation √(M2/count) in its place,
which never exceeds the largest value.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.numbers.reduction import Reduced, make_canonical, sum_in_rank_order

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """Statistics over ranks, each of shape (n, m).

    ``count`` is of all values; ``mean``, ``std`` (population), ``minimum`` and ``maximum`` are over finite
    ones, 0 where there is none; the ranks are the lowest that have the minimum and the maximum.
    """

    count: Integers
    mean: Floats
    std: Floats
    minimum: Floats
    maximum: Floats
    minimum_rank: Integers
    maximum_rank: Integers
    nans: Integers
    infinities: Integers
    negative_infinities: Integers

    @property
    def finite(self) -> Integers:
        """The number of finite values."""
        return self.count - self.nans - self.infinities - self.negative_infinities

    def __getitem__(self, index: object) -> Summary:
        """Return the summaries of some cells: each array is indexed by ``index``."""
        return Summary(*(getattr(self, name)[index] for name in FIELDS))


FIELDS = tuple(field.name for field in fields(Summary))


def summarize(values: Floats, seen: NDArray[np.bool_], ranks: Integers) -> Summary:
    """Reduce ``values`` of shape (n rows, ranks, m metrics) over its middle axis.

    ``ranks`` are those of the middle axis, ascending. ``seen``, of the shape of ``values``, marks the values
    that exist; the others are ignored.
    """
    finite = seen & np.isfinite(values)
    count = finite.sum(axis=1)
    some = count > 0
    with np.errstate(all="ignore"):
        mean, std = _mean_and_std(np.where(finite, values, 0.0), finite, np.maximum(count, 1))
        low, high = np.where(finite, values, np.inf), np.where(finite, values, -np.inf)
    return Summary(
        seen.sum(axis=1),
        np.where(some, mean, 0.0),
        np.where(some, std, 0.0),
        np.where(some, low.min(axis=1), 0.0),
        np.where(some, high.max(axis=1), 0.0),
        np.where(some, ranks[low.argmin(axis=1)], 0),
        np.where(some, ranks[high.argmax(axis=1)], 0),
        (seen & np.isnan(values)).sum(axis=1),
        (seen & np.isposinf(values)).sum(axis=1),
        (seen & np.isneginf(values)).sum(axis=1),
    )


def _mean_and_std(x: Floats, here: NDArray[np.bool_], count: Integers) -> tuple[Floats, Floats]:
    """Two passes; ``x`` is 0 where there is no value. The second corrects the mean, as in the reduction."""
    x = np.ascontiguousarray(x)
    mean = sum_in_rank_order(x) / count
    if not np.isfinite(mean).all():
        mean = sum_in_rank_order(x / count[:, None, :])
    # Halved, a difference of two values is always in range.
    halves = np.where(here, 0.5 * x - 0.5 * mean[:, None, :], 0.0)
    largest = np.abs(halves).max(axis=1)
    scaled = halves / np.where(largest > 0, largest, 1.0)[:, None, :]
    drift = sum_in_rank_order(scaled)
    squares = sum_in_rank_order(scaled * scaled)
    half_std = largest * np.sqrt(np.maximum(squares - drift * drift / count, 0.0) / count)
    return mean + 2.0 * (largest * (drift / count)), 2.0 * half_std


def merge(one: Summary, other: Summary) -> Summary:
    """Return the summary over the ranks of both, which have none in common."""
    mine, its = one.finite, other.finite
    total = np.maximum(mine + its, 1)
    with np.errstate(all="ignore"):
        half = 0.5 * other.mean - 0.5 * one.mean
        mean = one.mean + half * (2.0 * its / total)
        # Where the step from one mean to the other is out of range, weighing them is exact enough.
        mean = np.where(np.isfinite(mean), mean, one.mean * (mine / total) + other.mean * (its / total))
        within = np.hypot(one.std * np.sqrt(mine / total), other.std * np.sqrt(its / total))
        std = np.hypot(within, half * (2.0 * np.sqrt(mine / total) * np.sqrt(its / total)))
    only_mine, only_its = its == 0, mine == 0
    low, low_rank = _better(one.minimum, one.minimum_rank, other.minimum, other.minimum_rank, np.less)
    high, high_rank = _better(one.maximum, one.maximum_rank, other.maximum, other.maximum_rank, np.greater)

    def chosen(merged: NDArray[np.float64 | np.int64], name: str) -> NDArray[np.float64 | np.int64]:
        return np.where(only_its, getattr(other, name), np.where(only_mine, getattr(one, name), merged))

    return Summary(
        one.count + other.count,
        chosen(mean, "mean"),  # type: ignore[arg-type]  # floats stay floats
        chosen(std, "std"),  # type: ignore[arg-type]
        chosen(low, "minimum"),  # type: ignore[arg-type]
        chosen(high, "maximum"),  # type: ignore[arg-type]
        chosen(low_rank, "minimum_rank"),  # type: ignore[arg-type]
        chosen(high_rank, "maximum_rank"),  # type: ignore[arg-type]
        one.nans + other.nans,
        one.infinities + other.infinities,
        one.negative_infinities + other.negative_infinities,
    )


def _better(
    value: Floats, rank: Integers, other: Floats, its_rank: Integers, beats: np.ufunc
) -> tuple[Floats, Integers]:
    """Return the better of two extremes, and the lowest rank that has it."""
    ahead = beats(other, value)
    tie = other == value
    ranks = np.where(ahead, its_rank, np.where(tie, np.minimum(rank, its_rank), rank))
    return np.where(ahead, other, value), ranks


def statistics(summary: Summary) -> Reduced:
    """Return the recorded statistics, as numpy's functions over all values of the summary give them."""
    up, down, nan = summary.infinities > 0, summary.negative_infinities > 0, summary.nans > 0
    all_finite = summary.finite == summary.count
    none = summary.finite == 0
    mean = np.where(up, np.inf, np.where(down, -np.inf, summary.mean))
    mean[nan | (up & down)] = np.nan
    std = np.where(all_finite, summary.std, np.nan)
    minimum = np.where(down, -np.inf, np.where(none, np.inf, summary.minimum))
    maximum = np.where(up, np.inf, np.where(none, -np.inf, summary.maximum))
    minimum[nan] = maximum[nan] = np.nan
    for statistic in (mean, std, minimum, maximum):
        make_canonical(statistic)
    return Reduced(summary.count, mean, minimum, maximum, std)
