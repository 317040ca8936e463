"""The steps of calls: what a script may give as a step, and the step that a call names."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from tracker_client.values.refusals import Refusals, shown
from tracker_protocol import limits

STEP_KEY = "step"
"""The key of ``log()``'s metrics that names the step of a call without ``step=``."""
KEPT_STEP_KEY = "step/local"
"""The name of the key ``step`` where that does not name the step."""
_BOOLEANS = ("b", "torch.bool")
"""Kinds of numpy's types of elements, and torch's types of elements."""


def step_of(value: Any) -> int | None:
    """Return the step that ``value`` names; None if it names none.

    A step is an integer of any type, a float without a fraction, or an array of one of these without
    dimensions. Booleans, texts, numbers beyond ±STEP_MAX and values on a device name no step.
    """
    number = value if type(value) is int else _whole_number(value)
    return number if number is not None and -limits.STEP_MAX <= number <= limits.STEP_MAX else None


def _whole_number(value: Any) -> int | None:
    dtype = getattr(value, "dtype", None)
    if isinstance(value, (bool, str, bytes)) or (getattr(dtype, "kind", None) or str(dtype)) in _BOOLEANS:
        return None
    if _is_on_device(value):
        return None  # reading it would wait for the device
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):
        pass
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return int(number) if number.is_integer() else None


def given_step(step: Any, refusals: Refusals) -> int | None:
    """Return the step that a caller gave; None, with one warning, if it is invalid, and None for None."""
    if step is None:
        return None
    found = step_of(step)
    if found is None:
        why = "lies on a device" if _is_on_device(step) else f"is no whole number within ±{limits.STEP_MAX}"
        reason = f"{shown(step)} {why}; the values are recorded at the next automatic step"
        refusals.warn_once("step=", reason)
    return found


def _is_on_device(value: Any) -> bool:
    return getattr(getattr(value, "device", None), "type", "cpu") != "cpu"


def named_step(step: int | None, values: Mapping[Any, Any]) -> int | None:
    """Return the step that a call with ``step=`` and ``values`` names; None if its step is automatic."""
    if step is not None and -limits.STEP_MAX <= step <= limits.STEP_MAX:
        return step
    try:
        return step_of(values[STEP_KEY]) if STEP_KEY in values else None
    except Exception:  # noqa: BLE001 - comparing keys, and reading a value, may run the user's code
        return None
