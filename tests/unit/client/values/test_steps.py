"""Which values name a step."""

from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from tracker_client.values.refusals import Refusals
from tracker_client.values.steps import given_step, named_step, step_of
from tracker_protocol import limits


class Unprintable:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "value",
    [
        7, 7.0, np.int8(7), np.uint64(7), np.float16(7), np.array(7), np.array(7.0), Fraction(7),
        Decimal(7),
    ],
    ids=repr,
)  # fmt: skip
def test_a_whole_number_of_any_type_names_a_step(value):
    found = step_of(value)
    assert (type(found), found) == (int, 7)


@pytest.mark.parametrize(
    "value",
    [
        True, np.bool_(1), np.array(True), "7", b"7", None, [7], 7j, 0.5, np.float32(0.5),
        float("nan"), float("inf"), np.array([7, 8]), object(),
        limits.STEP_MAX + 1, -limits.STEP_MAX - 1, 1e300,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_anything_else_names_none(value):
    assert step_of(value) is None


def test_tensors_name_a_step_as_arrays_do():
    torch = pytest.importorskip("torch")
    whole = [torch.tensor(7), torch.tensor(7.0), torch.tensor(7.0, dtype=torch.bfloat16)]
    assert [step_of(value) for value in whole] == [7, 7, 7]
    others = [torch.tensor(True), torch.tensor(0.5), torch.tensor([7, 8]), torch.tensor(7, device="meta")]
    assert [step_of(value) for value in others] == [None] * 4


def test_a_value_on_a_device_is_not_read(caplog):
    class OnDevice:
        device = SimpleNamespace(type="cuda")

        def __index__(self):
            raise AssertionError

        __float__ = __index__

    refusals = Refusals()
    assert given_step(OnDevice(), refusals) is None
    assert "lies on a device" in caplog.text
    assert named_step(None, {"step": OnDevice()}) is None


def test_an_invalid_step_is_warned_about_once_by_its_value(caplog):
    refusals = Refusals()
    assert [given_step(step, refusals) for step in (None, 3, 0.5, "x", Unprintable())] == [None, 3] + 3 * [
        None
    ]
    assert len(caplog.messages) == 1
    assert "0.5 is no whole number" in caplog.text
    assert given_step(Unprintable(), Refusals()) is None
    assert refusals.count == 0


def test_a_call_names_the_step_of_its_argument_or_else_of_its_key():
    assert named_step(3, {"step": 4}) == 3
    assert named_step(None, {"step": 4.0, "a": 1}) == 4
    assert named_step(2**70, {"step": 4}) == 4
    assert named_step(None, {"a": 1}) is None
    assert named_step(None, {"step": "x"}) is None
