"""Summaries of disjoint sets of ranks yield what the values themselves would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tracker_daemon.aggregation.numbers.reduction import Reduced, reduce_ranks
from tracker_daemon.aggregation.numbers.summary import Summary, merge, statistics, summarize

EPS = np.finfo(np.float64).eps


def flat_and_tree(
    values: np.ndarray, seen: np.ndarray, parts: np.ndarray
) -> tuple[Reduced, Reduced, Summary]:
    summaries = [
        summarize(values[:, parts == part], seen[:, parts == part], np.flatnonzero(parts == part))
        for part in dict.fromkeys(parts.tolist())
    ]
    merged = summaries[0]
    for summary in summaries[1:]:
        merged = merge(merged, summary)
    return reduce_ranks(values, seen), statistics(merged), merged


def check_alike(values: np.ndarray, seen: np.ndarray, parts: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        flat, tree, merged = flat_and_tree(values, seen, parts)
        some = flat.count > 0
        finite = seen & np.isfinite(values)
        largest = np.where(finite, np.abs(values), 0.0).max(axis=1)
        assert (tree.count == flat.count).all()
        for exact in ("minimum", "maximum"):
            assert np.array_equal(getattr(tree, exact)[some], getattr(flat, exact)[some], equal_nan=True)
        for name, tolerance in (("mean", 1e-12 * largest), ("std", 1e-12 * flat.std + 8 * EPS * largest)):
            mine, its = getattr(tree, name), getattr(flat, name)
            odd = ~np.isfinite(its)
            assert np.array_equal(mine[some & odd], its[some & odd], equal_nan=True)
            assert (np.abs(mine - its) <= tolerance)[some & ~odd].all()
    low = np.where(finite, values, np.inf)
    expected = np.where(finite.any(axis=1), low.argmin(axis=1), 0)
    assert (merged.minimum_rank == expected).all()


magnitudes = st.floats(-1e300, 1e300).filter(lambda x: x == 0 or abs(x) > 1e-140)
numbers = magnitudes | st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e6 + 1e-9])


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 24))
def test_any_division_of_the_ranks_gives_the_statistics_of_all_of_them(
    data: st.DataObject, ranks: int
) -> None:
    shape = (2, ranks, 2)
    values = data.draw(arrays(np.float64, shape, elements=numbers))
    seen = data.draw(arrays(np.bool_, shape))
    parts = data.draw(arrays(np.int64, ranks, elements=st.integers(0, 5)))
    check_alike(values, seen, parts)


@pytest.mark.parametrize("value", [0.1, 1e6 + 0.1, -3e-100, 7e299])
def test_equal_values_have_next_to_no_deviation_however_many_summaries_merge(value: float) -> None:
    ranks = 2_000
    values = np.full((1, ranks, 1), value)
    _, tree, _ = flat_and_tree(values, np.ones(values.shape, np.bool_), np.arange(ranks))
    assert abs(tree.mean[0, 0] - value) <= 1e-12 * abs(value)
    assert tree.std[0, 0] <= 8 * EPS * abs(value)


def test_values_whose_squares_or_sums_are_out_of_range_have_a_mean_and_a_deviation() -> None:
    values = np.array([1.5e308, -1.5e308, 1.5e308, -1.5e308]).reshape(1, 4, 1)
    seen = np.ones(values.shape, np.bool_)
    left = summarize(values[:, :2], seen[:, :2], np.array([0, 1]))
    right = summarize(values[:, 2:], seen[:, 2:], np.array([2, 3]))
    found = statistics(merge(left, right))
    assert found.mean[0, 0] == 0.0
    assert found.std[0, 0] == pytest.approx(1.5e308)


def test_the_lowest_rank_that_has_an_extreme_is_named() -> None:
    values = np.array([2.0, 1.0, 3.0, 1.0, 3.0]).reshape(1, 5, 1)
    seen = np.ones(values.shape, np.bool_)
    later = summarize(values[:, 2:], seen[:, 2:], np.array([2, 3, 4]))
    earlier = summarize(values[:, :2], seen[:, :2], np.array([0, 1]))
    merged = merge(later, earlier)
    assert (merged.minimum_rank[0, 0], merged.maximum_rank[0, 0]) == (1, 2)
