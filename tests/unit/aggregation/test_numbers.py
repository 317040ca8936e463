"""Numbers: dense by rank, reduced in rank order, the same bits for the same values."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.aggregation.scenario import Scenario
from tracker_daemon.aggregation.numbers.reduction import reduce_ranks

EPS = np.finfo(np.float64).eps
finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
moderate = st.floats(-1e100, 1e100)
special = st.sampled_from([0.0, -0.0, math.nan, -math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324])
anything = st.one_of(finite, special)


def reduce_list(values: list[float]) -> dict[str, float]:
    x = np.array(values)[None, :, None]
    reduced = reduce_ranks(x, np.ones(x.shape, bool))
    return {
        "mean": reduced.mean[0, 0],
        "min": reduced.minimum[0, 0],
        "max": reduced.maximum[0, 0],
        "std": reduced.std[0, 0],
    }


def assert_close(got: dict[str, float], values: list[float]) -> None:
    """Equal to numpy over the sorted values, within the documented tolerance."""
    x = np.sort(np.array(values))
    largest = np.abs(x).max()
    assert abs(got["mean"] - np.mean(x)) <= 1e-12 * largest
    assert abs(got["std"] - np.std(x)) <= 1e-12 * np.std(x) + 8 * EPS * largest
    assert got["min"] == x[0]
    assert got["max"] == x[-1]


@given(st.lists(moderate, min_size=1, max_size=80))
def test_statistics_agree_with_numpy_over_the_sorted_values(values: list[float]) -> None:
    assert_close(reduce_list(values), values)


@given(st.floats(1e6, 1e15), st.lists(st.floats(-1, 1), min_size=2, max_size=50))
def test_small_spreads_on_large_offsets_do_not_cancel(offset: float, spread: list[float]) -> None:
    values = [offset + delta for delta in spread]
    assert_close(reduce_list(values), values)


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(1, 100))
def test_equal_values_have_no_spread_to_speak_of(value: float, ranks: int) -> None:
    got = reduce_list([value] * ranks)
    if math.isfinite(value * ranks):
        assert got["std"] <= 8 * EPS * abs(value)
        assert abs(got["mean"] - value) <= 1e-12 * abs(value)


@given(st.lists(st.sampled_from([1.0, -2.5, math.nan, math.inf, -math.inf]), min_size=1, max_size=6))
def test_nan_and_infinity_go_through_as_numpy_lets_them(values: list[float]) -> None:
    got = reduce_list(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {f.__name__: f(np.array(values)) for f in (np.mean, np.std, np.min, np.max)}
    for name in ("mean", "std", "min", "max"):
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-14)


@given(st.lists(st.lists(anything, min_size=3, max_size=3), min_size=1, max_size=20), st.data())
def test_the_bits_do_not_depend_on_the_metrics_and_rows_beside_or_on_absent_ranks(
    columns: list[list[float]], data: st.DataObject
) -> None:
    x = np.array(columns).T[None]  # one row, three ranks, a metric per column
    alone = np.array([_bits(x[:, :, [m]], np.ones((1, 3, 1), bool))[0] for m in range(x.shape[2])])
    together = _bits(x, np.ones(x.shape, bool))
    assert (together == alone).all()
    # Among other rows, and among ranks that are absent, whatever lies in their places.
    wide = np.full((4, 7, x.shape[2]), data.draw(anything))
    seen = np.zeros(wide.shape, bool)
    row, ranks = data.draw(st.integers(0, 3)), sorted(data.draw(st.permutations(range(7)))[:3])
    wide[row, ranks], seen[row, ranks] = x[0], True
    reduced = reduce_ranks(wide, seen)
    assert (_statistics(reduced)[row] == alone).all()
    # And whatever the order in memory.
    assert (_bits(np.asfortranarray(x), np.ones(x.shape, bool)) == alone).all()
    picked = data.draw(st.lists(st.integers(0, x.shape[2] - 1), min_size=1, max_size=5, unique=True))
    assert (_bits(x[:, :, picked], np.ones((1, 3, len(picked)), bool)) == alone[picked]).all()


def _statistics(reduced: object) -> np.ndarray:
    """(rows, metrics, 4) of the statistics' bits."""
    parts = [getattr(reduced, name) for name in ("mean", "minimum", "maximum", "std")]
    return np.stack(parts, axis=-1).view(np.uint64)


def _bits(x: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return _statistics(reduce_ranks(x, seen))[0]


@pytest.mark.parametrize("ranks", [1, 2, 7, 8, 9, 127, 128, 129, 1000])
@pytest.mark.parametrize("metrics", [1, 2, 3, 8, 50])
def test_sums_run_in_rank_order_at_any_size(ranks: int, metrics: int) -> None:
    x = np.random.default_rng(ranks * metrics).normal(size=(3, ranks, metrics)) * 1e3
    together = _statistics(reduce_ranks(x, np.ones(x.shape, bool)))
    apart = np.stack(
        [_statistics(reduce_ranks(x[:, :, [m]], np.ones((3, ranks, 1), bool)))[:, 0] for m in range(metrics)],
        axis=1,
    )
    assert (together == apart).all()
    total = 0.0
    for value in x[0, :, 0].tolist():
        total += value
    first = total / ranks
    drift = 0.0
    for value in x[0, :, 0].tolist():
        drift += value - first
    assert together[0, 0, 0] == np.float64(first + drift / ranks).view(np.uint64)


def test_chunks_of_rows_make_no_difference() -> None:
    x = np.random.default_rng(0).normal(size=(3000, 64, 5))
    seen = np.random.default_rng(1).random(x.shape) < 0.9
    whole = reduce_ranks(x, seen)
    for row in (0, 1, 408, 409, 410, 2999):
        one = reduce_ranks(x[row : row + 1], seen[row : row + 1])
        assert (_statistics(one)[0] == _statistics(whole)[row]).all()
        assert (one.count[0] == whole.count[row]).all()


# ---- through the fold ----------------------------------------------------------------------------

RowList = list[tuple[int, dict[str, float]]]
row = st.tuples(
    st.integers(0, 5),
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.one_of(moderate, special), min_size=1),
)
streams = st.lists(st.lists(row, max_size=12), min_size=1, max_size=4)


def play(streams: list[RowList], order: list[int], pauses: list[bool]) -> Scenario:
    """Send each rank's rows, interleaved as ``order`` says, with ticks where ``pauses`` says; then end."""
    run = Scenario(len(streams), record="all")
    rest = [list(rows) for rows in streams]
    for rank, pause in zip(order, pauses, strict=True):
        step, values = rest[rank].pop(0)
        run.log(rank, step, values)
        if pause:
            run.tick()
    run.finish(*range(len(streams)))
    run.tick()
    return run


def by_cell(streams: list[RowList]) -> dict[tuple[str, int, int], dict[int, float]]:
    """What numpy shall see: each cell's values by rank, with occurrences counted independently."""
    cells: dict[tuple[str, int, int], dict[int, float]] = defaultdict(dict)
    for rank, rows in enumerate(streams):
        highs: dict[str, list[int]] = defaultdict(list)
        for step, values in rows:
            for name, value in values.items():
                occurrence = sum(high >= step for high in highs[name])
                highs[name][occurrence : occurrence + 1] = [step]
                cells[name, step, occurrence][rank] = value
    return cells


@st.composite
def interleavings(draw: st.DrawFn) -> tuple[list[RowList], list[int], list[bool]]:
    rows = draw(streams)
    order = draw(st.permutations([rank for rank, some in enumerate(rows) for _ in some]))
    return rows, order, draw(st.lists(st.booleans(), min_size=len(order), max_size=len(order)))


@settings(max_examples=150, deadline=None)
@given(interleavings())
def test_any_interleaving_of_ragged_repeating_and_rewinding_streams_gives_what_numpy_gives(
    played: tuple[list[RowList], list[int], list[bool]],
) -> None:
    rows, order, pauses = played
    run = play(rows, order, pauses)
    assert run.fold.attempt.open_points() == 0
    cells = by_cell(rows)
    assert run.fold.books.received == sum(map(len, cells.values()))
    reporters: dict[str, set[int]] = defaultdict(set)
    for (name, _, _), values in cells.items():
        reporters[name].update(values)
    for name, step in {(name, step) for name, step, _ in cells}:
        here = [values for (other, at, _), values in cells.items() if (other, at) == (name, step)]
        records = [record.cells for record in run.records if record.step == step]
        _check_own_values(records, name, here, sole=len(reporters[name]) == 1)
        if run.fold.books.late == 0 and len(reporters[name]) > 1:
            of_metric = [record for record in records if f"{name}/mean" in record]
            # A cell of one rank has none if it closed before any other rank had reported the metric.
            several = [values for values in here if len(values) > 1]
            assert len(several) <= len(of_metric) <= len(here)
            for values in several:
                _check_one_of(of_metric, name, [values[rank] for rank in sorted(values)])


def _check_own_values(
    records: list[dict[str, float | str]], name: str, cells: list[dict[int, float]], *, sole: bool
) -> None:
    """All ranks are recorded: each value is there, plain or under the rank's name."""
    plain = [record[name] for record in records if name in record]
    of_ranks = [(column, value) for record in records for column, value in record.items()]
    named = [value for column, value in of_ranks if column.startswith(f"{name}/rank")]
    logged = [value for values in cells for value in values.values()]
    np.testing.assert_array_equal(np.sort(np.array(plain + named, float)), np.sort(np.array(logged)))
    assert not sole or not named


def _check_one_of(records: list[dict[str, float | str]], name: str, values: list[float]) -> None:
    """One of the records has the statistics of ``values``."""
    wrong = []
    for record in records:
        try:
            _check_statistics(record, name, values)
        except AssertionError as error:
            wrong.append(error)
        else:
            return
    raise AssertionError(wrong)


def _check_statistics(got: dict[str, float | str], name: str, values: list[float]) -> None:
    found = {kind: float(got[f"{name}/{kind}"]) for kind in ("mean", "min", "max", "std")}
    largest = max(map(abs, values))
    if all(map(math.isfinite, values)) and largest < 1e150:
        assert_close(found, values)
    else:
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(found["min"], np.min(values))
            np.testing.assert_array_equal(found["max"], np.max(values))
            if not all(map(math.isfinite, values)):
                np.testing.assert_array_equal(found["mean"], np.mean(values))
                np.testing.assert_array_equal(found["std"], np.std(values))


@settings(max_examples=60, deadline=None)
@given(interleavings(), st.data())
def test_the_same_input_gives_the_same_bits_for_any_interleaving(
    played: tuple[list[RowList], list[int], list[bool]], data: st.DataObject
) -> None:
    """Without ticks in between nothing can be late, and the order of arrival leaves no trace."""
    rows, order, _ = played
    first = play(rows, order, [False] * len(order))
    second = play(rows, data.draw(st.permutations(order)), [False] * len(order))
    for step in range(6):
        for occurrence in range(12):
            a, b = first.row(step, occurrence), second.row(step, occurrence)
            assert a.keys() == b.keys()
            for name in a:
                assert np.float64(a[name]).tobytes() == np.float64(b[name]).tobytes(), name


def test_batching_of_rows_makes_no_difference() -> None:
    values = np.random.default_rng(0).normal(size=(3, 60, 2))
    runs = []
    for size in (1, 7, 60):
        run = Scenario(3)
        for start in range(0, 60, size):
            for rank in (2, 0, 1):
                some = values[rank, start : start + size]
                run.log_rows(
                    rank,
                    range(start, start + len(some)),
                    {"a": some[:, 0], "b": some[:, 1]},
                    times=[5] * len(some),
                )
            run.tick()
        runs.append(run)
    for run in runs[1:]:
        assert [(r.step, r.cells) for r in run.records] == [(r.step, r.cells) for r in runs[0].records]


def test_the_company_of_other_metrics_makes_no_difference() -> None:
    values = np.random.default_rng(0).normal(size=(9, 3))
    together, apart = Scenario(9), Scenario(9)
    for rank in range(9):
        together.log(rank, 0, a=values[rank, 0], **{"b/mean": 1.0}, c=values[rank, 2])
        apart.log(rank, 0, c=values[rank, 2])
        apart.log(rank, 0, a=values[rank, 0])
    together.tick()
    apart.tick()
    a, b = together.row(0), apart.row(0)
    assert all(np.float64(a[name]).tobytes() == np.float64(b[name]).tobytes() for name in b)
