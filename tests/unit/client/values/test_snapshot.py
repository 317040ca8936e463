"""Values: what is recorded is the value at the call, and what is none is counted and named once."""

import decimal
import fractions
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.messages import texts_of
from tests.support.waiting import wait_until
from tracker_client.values.histogram import Histogram
from tracker_client.values.refusals import Refusals
from tracker_client.values.snapshot import UnusableValue, snapshot, snapshot_value
from tracker_client.values.wandb_objects import TableValue
from tracker_protocol import limits

np = pytest.importorskip("numpy")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.int64(3), 3.0),
        (np.bool_(True), 1.0),
        (np.array(2.5), 2.5),
        (np.array([2.5]), 2.5),
        (np.array([[7]]), 7.0),
        (np.str_("text"), "text"),
        (decimal.Decimal("1.5"), 1.5),
        (fractions.Fraction(1, 4), 0.25),
        ("text", "text"),
        (10**30, 10**30),
    ],
)
def test_numbers_and_texts_of_all_kinds_are_taken(value, expected):
    assert snapshot_value(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        None,
        [1],
        {"a": 1},
        (1,),
        object(),
        1j,
        np.array([1, 2]),
        np.array([]),
        np.complex64(1j),
        10**400,
        b"bytes",
        int,
    ],
)
def test_what_is_not_one_number_is_refused(value):
    with pytest.raises(UnusableValue):
        snapshot_value(value)


def test_a_mutable_value_is_recorded_as_it_was_at_the_call():
    array = np.array(1.0)
    metrics = {"a": array, "b": 2.0}
    row = snapshot(metrics, Refusals())
    array[...] = 9.0
    metrics["b"] = 9.0
    assert row == {"a": 1.0, "b": 2.0}


def test_an_overlong_text_is_cut_with_a_warning(caplog):
    row = snapshot({"t": "x" * (limits.TEXT_VALUE_MAX_CHARACTERS + 1)}, Refusals())
    assert row == {"t": "x" * limits.TEXT_VALUE_MAX_CHARACTERS}
    assert "'t'" in caplog.text


def test_refusals_warn_once_per_cause_with_all_keys_of_the_call_and_count_all(caplog):
    refusals = Refusals()
    for _ in range(3):
        row = snapshot({"bad": None, "worse": [], "bad too": None, "good": np.float32(1)}, refusals)
        assert row == {"good": 1.0}
    assert refusals.count == 9
    assert len(texts_of(caplog.records)) == 2
    assert texts_of(caplog.records)[0] == "'bad', 'bad too': None holds no value; it is not recorded"
    assert texts_of(caplog.records)[1].startswith("'worse': a list of 0 values is not one number")


@pytest.mark.parametrize(
    "value",
    [3, True, np.int64(3), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True), np.array(3), np.array([False])],
)
def test_integers_and_booleans_keep_their_kind(value):
    taken = snapshot_value(value)
    expected = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
    assert (taken, type(taken)) == (expected, type(expected))


def test_a_tensor_keeps_the_kind_of_its_numbers():
    torch = pytest.importorskip("torch")
    row = snapshot({"i": torch.tensor(3), "b": torch.tensor(True), "f": torch.tensor(3.0)}, Refusals())
    assert [type(value) for value in row.values()] == [int, bool, float]


class FloatAlone:
    def __float__(self):
        return 0.5


class IndexAlone:
    def __index__(self):
        return 7


class ArrayAlone:
    def __init__(self, array):
        self.array = np.asarray(array)

    def __array__(self, dtype=None, copy=None):
        return self.array


@pytest.mark.parametrize(
    ("value", "expected"),
    [(FloatAlone(), 0.5), (IndexAlone(), 7), (ArrayAlone(1.5), 1.5), (ArrayAlone(np.int16(2)), 2)],
)
def test_an_object_that_only_converts_to_a_number_is_one(value, expected):
    taken = snapshot_value(value)
    assert (taken, type(taken)) == (expected, type(expected))


def test_an_array_like_object_of_several_values_is_refused_and_never_computed():
    class Lazy(ArrayAlone):
        shape = (1000, 1000)

        def __array__(self, dtype=None, copy=None):
            raise AssertionError("it was computed")

    for value, size in ((Lazy(0), 1_000_000), (ArrayAlone([1, 2]), 2)):
        with pytest.raises(UnusableValue, match=f"of {size} values"):
            snapshot_value(value)


def test_a_masked_value_is_left_out_and_not_zero():
    refusals = Refusals()
    metrics = {"masked": np.ma.masked, "one": np.ma.array([1.0], mask=[True]), "kept": np.ma.array([2.5])}
    assert snapshot(metrics, refusals) == {"kept": 2.5}
    assert refusals.count == 2


def test_a_long_double_becomes_a_float():
    for value in (np.longdouble("0.1"), np.array(np.longdouble("0.1"))):
        taken = snapshot_value(value)
        assert (taken, type(taken)) == (0.1, float)


@pytest.mark.parametrize("value", [np.datetime64("2026-01-02T03:04:05.6", "ns"), np.timedelta64(5, "ns")])
def test_a_time_is_no_number_of_nanoseconds(value):
    with pytest.raises(UnusableValue, match="is a time, not a number"):
        snapshot_value(value)


def test_two_values_of_one_name_in_a_call_are_not_lost_silently():
    refusals = Refusals()
    assert snapshot({"a.b": 1, "a": {"b": 2}, "c": 3}, refusals) == {"a.b": 1, "c": 3}
    assert refusals.count == 1


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (None, "None holds no value"),
        ([1.0, 2.0], "log_table"),
        ((1.0,), "a tuple of 1 values is not one number"),
        (SimpleNamespace(savefig=print), "log_image"),
    ],
)
def test_the_warning_says_what_becomes_of_a_value_and_what_to_call_instead(value, advice):
    with pytest.raises(UnusableValue, match=advice):
        snapshot_value(value)


def test_a_value_whose_conversion_raises_is_refused():
    class Evil:
        def __float__(self):
            raise KeyError("no")

    refusals = Refusals()
    assert snapshot({"evil": Evil()}, refusals) == {}
    assert refusals.count == 1


def test_torch_tensors_are_taken_by_value():
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([1.5], requires_grad=True)
    scalar = torch.tensor(2, dtype=torch.int32)
    low = torch.tensor(0.5, dtype=torch.bfloat16)
    row = snapshot(
        {"a": tensor, "b": scalar, "c": low, "d": torch.nn.Parameter(torch.tensor(3.0))}, Refusals()
    )
    with torch.no_grad():
        tensor.fill_(9)
        scalar.fill_(9)
    assert row == {"a": 1.5, "b": 2, "c": 0.5, "d": 3.0}
    for bad in (torch.zeros(2), torch.tensor(1j)):
        assert snapshot({"bad": bad}, Refusals()) == {}


def test_jax_arrays_are_deferred_and_tracers_refused(monkeypatch):
    class Array:
        size = 1
        is_fully_addressable = is_fully_replicated = True
        done = False

        def is_ready(self):
            return self.done

        def item(self):
            return 3.0

    class Tracer(Array):
        pass

    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(Array=Array, core=SimpleNamespace(Tracer=Tracer)))
    array = Array()
    deferred = snapshot_value(array)
    assert not deferred.ready()
    array.done = True
    wait_until(deferred.ready, "the number")
    assert deferred.value() == 3.0
    with pytest.raises(UnusableValue, match="jit"):
        snapshot_value(Tracer())


def test_arrays_of_unknown_frameworks_are_refused_and_not_waited_for():
    class Foreign:
        def __dlpack__(self):
            raise AssertionError

        def __float__(self):
            raise AssertionError("waited for the device")

    with pytest.raises(UnusableValue, match="float"):
        snapshot_value(Foreign())


TEXTS = st.sampled_from(["", "a", "é", "\ud800", "\0", "x" * 600])
ANYTHING = st.one_of(
    st.none(), st.integers(), st.floats(), TEXTS, st.binary(max_size=4), st.booleans(), st.complex_numbers(),
    st.lists(st.integers(), max_size=3), st.just({}), st.decimals(), st.just(object), st.builds(object),
)  # fmt: skip


@given(st.dictionaries(st.one_of(TEXTS, st.integers(), st.none()), ANYTHING))
def test_every_value_is_either_taken_or_counted(metrics):
    refusals = Refusals()
    row = snapshot(metrics, refusals)
    assert len(row) + refusals.count == len(metrics)
    assert all(isinstance(value, (float, int, str)) for value in row.values())


def test_nested_dicts_are_opened_with_dots_and_numbers_may_be_names_within():
    nested = {"eval": {"loss": 1.0, "by_class": {0: 0.5, 1: np.float32(0.25)}}, "x": 2}
    assert snapshot(nested, Refusals()) == {
        "eval.loss": 1.0, "eval.by_class.0": 0.5, "eval.by_class.1": 0.25, "x": 2,
    }  # fmt: skip


def test_what_a_nested_dict_has_no_name_or_value_for_is_counted(caplog):
    endless = {"a": 1.0}
    endless["again"] = endless
    refusals = Refusals()
    row = snapshot({"e": {}, "t": {(1,): 2}, "n": {"bad": None}, 3: {"a": 1}}, refusals)
    assert row == {}
    assert refusals.count == 4
    deep = snapshot({"endless": endless}, refusals)
    assert len(deep) == limits.METRICS_NESTED_DEPTH_MAX
    assert deep["endless.again.a"] == 1.0
    assert refusals.count == 5
    assert "16 deep" in caplog.text


def test_a_histogram_of_wandb_is_taken_without_importing_wandb():
    wandb = pytest.importorskip("wandb")
    counts, edges = np.histogram([1.0, 2.0, 2.0], bins=2)
    histogram = snapshot_value(wandb.Histogram(np_histogram=(counts, edges)))
    assert histogram == Histogram((1.0, 1.5, 2.0), (1.0, 2.0))
    with pytest.raises(UnusableValue, match="Html"):
        snapshot_value(wandb.Html("<p>"))


def test_an_image_and_a_table_of_wandb_are_taken_as_the_file_and_the_rows_they_hold():
    wandb = pytest.importorskip("wandb")
    pytest.importorskip("PIL")
    image = snapshot_value(wandb.Image(np.zeros((2, 3, 3), np.uint8), caption="black"))
    assert image.caption == "black"
    assert Path(image.path).read_bytes().startswith(b"\x89PNG")
    table = wandb.Table(columns=["a", "b"], data=[[1, "x"]])
    taken = snapshot_value(table)
    table.add_data(2, "y")
    assert taken == TableValue(["a", "b"], [[1, "x"]])
