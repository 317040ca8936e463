"""A tensor's statistics: numpy's, over the finite values, and without waiting for its device."""

import pytest

from tests.support.optional_package import OptionalPackage
from tracker_client.watch import statistics as watch_statistics
from tracker_client.watch.record import WatchRecord
from tracker_client.watch.statistics import BINS, Unmeasurable, measure

np = pytest.importorskip("numpy")
torch = OptionalPackage("torch")

NAN, INF = float("nan"), float("inf")


def raise_it(_place, error):
    raise error


def statistics(*tensors):
    names = [str(place) for place in range(len(tensors))]
    resolved = WatchRecord(names, measure(tensors, torch, raise_it), torch).resolve()
    return resolved.row, resolved.items


def values_of(tensor):
    if tensor.is_complex():
        tensor = tensor.abs()
    return tensor.detach().to(torch.float64).numpy().ravel()


def assert_equal_to_numpy(tensor, row, items, name="0", tolerance=2e-6):
    values = values_of(tensor)
    finite = values[np.isfinite(values)]
    assert row[f"{name}/nonfinite"] == len(values) - len(finite)
    largest = abs(finite).max()
    assert row[f"{name}/norm"] == pytest.approx(np.linalg.norm(finite / largest) * largest, rel=tolerance)
    assert row[f"{name}/mean"] == pytest.approx(finite.mean(), abs=tolerance * largest)
    assert row[f"{name}/std"] == pytest.approx(finite.std(), abs=tolerance * largest)
    assert (row[f"{name}/min"], row[f"{name}/max"]) == (finite.min(), finite.max())
    histogram = items[name]
    assert sum(histogram.counts) == len(finite)
    edges = np.linspace(*histogram.edges, BINS + 1)
    # A value beside an edge may fall on either side of it, in float32.
    expected = np.histogram(finite, edges)[0]
    assert abs(np.cumsum(expected) - np.cumsum(histogram.counts)).max() <= max(1, len(finite) // 1_000)


def normal(*shape, **arguments):
    return torch.randn(*shape, **arguments)


TENSORS = {
    "many": lambda: normal(1_000),
    "permuted": lambda: normal(7, 3, 5).permute(2, 0, 1),
    "a view with gaps": lambda: normal(8, 8)[:, ::2],
    "far from zero": lambda: normal(20_000) * 1e-3 + 5,
    "double": lambda: normal(500).double(),
    "half": lambda: normal(500).half(),
    "bfloat16": lambda: normal(500).bfloat16(),
    "complex": lambda: normal(500, dtype=torch.complex64),
    "integers": lambda: torch.arange(-3, 40),
    "one number": lambda: torch.tensor(2.5),
    "not finite": lambda: torch.tensor([1.0, NAN, INF, -INF, 2.0]),
    "a parameter": lambda: torch.nn.Parameter(normal(30)),
    "expanded": lambda: torch.ones(1).expand(6),
    "tiny": lambda: normal(100) * 1e-30,
    "huge": lambda: torch.tensor([3e38, -3e38]),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_statistics_are_those_of_numpy_over_the_finite_values(kind):
    tensor = TENSORS[kind]()
    row, items = statistics(tensor)
    assert_equal_to_numpy(tensor, row, items)


def test_many_tensors_share_matrices_and_keep_their_own_statistics():
    tensors = [normal(size) for size in (1, 3, 64, 65, 4_096, 17, 3, 40_000, 64)]
    row, items = statistics(*tensors)
    for place, tensor in enumerate(tensors):
        assert_equal_to_numpy(tensor, row, items, str(place))
    assert list(items) == [str(place) for place in range(len(tensors))]


def test_a_large_tensor_is_gone_through_in_pieces(monkeypatch):
    monkeypatch.setattr(watch_statistics, "CHUNK_VALUES", 1_000)
    tensor = normal(watch_statistics.SMALL_VALUES_MAX + 777) * 3 + 1
    tensor[5_000] = NAN
    row, items = statistics(tensor)
    assert_equal_to_numpy(tensor, row, items)


def test_a_constant_tensor_fills_the_middle_of_a_range_that_is_not_empty():
    for value in (0.0, 3.0, -1e20):
        row, items = statistics(torch.full((9,), value))
        low, high = items["0"].edges
        assert low < value < high
        assert items["0"].counts[BINS // 2] == 9
        assert row["0/std"] == 0


def test_what_has_no_finite_value_has_its_count_alone_and_what_is_empty_nothing():
    row, items = statistics(torch.tensor([NAN, INF]), torch.empty(0, 4))
    assert row == {"0/nonfinite": 2}
    assert items == {}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_stored_values_of_a_sparse_tensor_are_measured_with_repeated_entries_added_up():
    indices = torch.tensor([[0, 2, 2]])
    sparse = torch.sparse_coo_tensor(indices, torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), (5, 2))
    row, items = statistics(sparse)
    assert_equal_to_numpy(torch.tensor([1.0, 2.0, 8.0, 10.0]), row, items)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(3, device="meta"),
        lambda: torch.ones(3, 3).to_sparse_csr(),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    ],
    ids=["meta", "sparse_csr", "quantized"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_cannot_be_measured_is_named_and_the_others_are_measured(make):
    refused = []
    tensor = make()
    measured = measure([torch.ones(2), tensor], torch, lambda place, error: refused.append((place, error)))
    assert [group.places for group in measured] == [[0]]
    ((place, error),) = refused
    assert place == 1
    assert isinstance(error, Unmeasurable)


@pytest.mark.parametrize("count", ["_count_directly", "_count_by_sorting", "_count_by_histogram"])
def test_each_way_of_counting_counts_alike(count):
    total = 65 * 300
    places = torch.randint(total, (50_000,)).float()
    counts = getattr(watch_statistics, count)(places, total, torch)
    assert counts.tolist() == np.bincount(places.long().numpy(), minlength=total).tolist()


@pytest.mark.parametrize("deterministic", [False, True])
def test_nothing_asks_an_accelerator_for_a_number(deterministic):
    """Tensors of an accelerator that have no values at all: whatever would need one raises."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    torch.use_deterministic_algorithms(deterministic)
    try:
        with FakeTensorMode():
            tensors = [torch.empty(size, device="mps") for size in ((3,), (40, 50), (5,), (1 << 23,))]
            tensors.append(torch.empty(10, device="mps", dtype=torch.bfloat16))
            measured = measure(tensors, torch, raise_it)
            with pytest.raises(DataDependentOutputException):
                tensors[0].max().item()
    finally:
        torch.use_deterministic_algorithms(False)
    assert sorted(place for group in measured for place in group.places) == list(range(5))
    assert all(group.counts.device.type == "mps" for group in measured)
