"""Takes the values of a ``log()`` call, as they are at the call, as numbers and texts.

Python's numbers are immutable, so a shallow copy of the dict is their snapshot: the fast path, in
``trackers.remote_tracker``. All other values are converted here. A value on an accelerator, or one still
being computed, becomes a :class:`Deferred`: its copy is enqueued behind the work that produces it, and the
sender reads the number once it has arrived (``devices``). No array library is
imported: an object can be a tensor only if the script has imported torch already.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Protocol

from tracker_client.values.collectives import Running, UnknownCollective, is_collective, result_of
from tracker_client.values.devices.background_reads import ComputedArray
from tracker_client.values.devices.copies import copy_number, has_streams, refuse_capture
from tracker_client.values.histogram import Histogram
from tracker_client.values.nesting import flatten
from tracker_client.values.refusals import Refusals, UnusableValue
from tracker_client.values.wandb_objects import MediaValue, from_wandb, images_of_wandb, is_of_wandb
from tracker_protocol import limits

PLAIN: frozenset[type] = frozenset((float, int, bool))
"""Types that need no snapshot. ``bool`` is not subclassable and the others are matched exactly."""


class Deferred(Protocol):
    """A number that is still being computed, or copied from a device."""

    def ready(self) -> bool:
        """Return True if :meth:`value` returns without waiting."""

    def value(self) -> float:
        """Return the number. Call this once :meth:`ready` has returned True."""


Value = float | str | Deferred
Row = dict[str, Value]


def snapshot(metrics: Mapping[Any, Any], refusals: Refusals) -> dict[Any, Value | Histogram | MediaValue]:
    """Copy ``metrics`` with each value as it is now; refuse and leave out unusable values.

    Nested dicts are flattened (:mod:`tracker_client.values.nesting`).

    Only iterating over ``metrics`` may raise, if that mapping raises.
    """
    row: dict[Any, Value | Histogram | MediaValue] = {}
    refused: list[tuple[object, str]] = []
    for key, value in flatten(metrics, refusals):
        if key in row:
            refused.append((key, "the call has two values of this name; the first is recorded"))
            continue
        if type(value) in PLAIN:
            row[key] = value
            continue
        try:
            row[key] = snapshot_value(value)
        except UnusableValue as unusable:
            refused.append((key, str(unusable)))
        except Exception as error:  # noqa: BLE001 - converting runs the value's own code, which may raise anything
            reason = f"converting this {_type_name(value)} raised {type(error).__name__}; it is not recorded"
            refused.append((key, reason))
        else:
            if type(value) is str and len(value) > limits.TEXT_VALUE_MAX_CHARACTERS:
                most = limits.TEXT_VALUE_MAX_CHARACTERS
                reason = f"a text is recorded up to {most} characters; the rest was cut"
                refusals.warn_once(key, reason)
    if refused:
        refusals.refuse_each(refused)
    return row


def snapshot_value(value: Any) -> Value | Histogram | MediaValue:
    """Take one value as it is now.

    Raises:
        UnusableValue: the value is neither one number, a text, nor an object of W&B that can be recorded.
    """
    torch, numpy, jax = (sys.modules.get(name) for name in ("torch", "numpy", "jax"))
    if torch is not None and isinstance(value, getattr(torch, "Tensor", ())):
        return _from_tensor(value, torch)
    if numpy is not None and isinstance(value, _array_types(numpy)):
        return _from_numpy(value)
    if jax is not None and isinstance(value, getattr(jax, "Array", ())):
        return _from_jax(value, jax)
    if is_of_wandb(value):
        return _from_wandb(value)
    images = images_of_wandb(value)
    if images is not None:
        return images
    return _from_python(value)


def _from_wandb(value: Any) -> Histogram | MediaValue:
    taken = from_wandb(value)
    if taken is None:
        raise UnusableValue(f"a {_type_name(value)} is not recorded; log an Image, a Table or a Histogram")
    return taken


def _array_types(numpy: Any) -> tuple[type, ...]:
    # While another thread is still importing numpy, these names may be missing, and no array exists yet.
    return getattr(numpy, "generic", type(None)), getattr(numpy, "ndarray", type(None))


def _from_numpy(array: Any) -> float | str:
    if array.size == 1 and is_masked(array):
        raise UnusableValue("a masked value is no number; it is left out")
    return _from_one(array, array.size)


def is_masked(array: Any) -> bool:
    """Return True if ``array`` is one of numpy's masked arrays, and all of it is masked."""
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", ())
    return isinstance(array, masked) and bool(array.mask.all())


def _from_python(value: Any) -> float | str:
    if isinstance(value, str):
        return str(value[: limits.TEXT_VALUE_MAX_CHARACTERS])
    if isinstance(value, (float, int, Decimal)):
        return _number(value)
    kind = type(value)
    if hasattr(kind, "__dlpack__") or hasattr(kind, "__cuda_array_interface__"):
        # float() of such an array could wait for its device, which would block the training loop.
        raise UnusableValue(f"arrays of type {_type_name(value)} are not known; log float(value)")
    if hasattr(kind, "__float__"):
        return float(_number(value))
    if hasattr(kind, "__index__"):
        return _number(operator.index(value))
    if hasattr(kind, "__array__"):
        return _from_array_like(value)
    raise UnusableValue(_no_number(value))


def _no_number(value: Any) -> str:
    """Return why an object is no value of a metric, and what becomes of it."""
    if value is None:
        return "None holds no value; it is not recorded"
    if isinstance(value, (list, tuple, set, frozenset)):
        return (
            f"a {type(value).__name__} of {len(value)} values is not one number and is not recorded; log "
            "its mean, each value under a name of its own, or all with log_table()"
        )
    if callable(getattr(value, "savefig", None)) or type(value).__module__.partition(".")[0] == "PIL":
        return f"a {_type_name(value)} is not a number; record it with log_image()"
    return f"a {_type_name(value)} is neither a number nor a text; it is not recorded"


def _number(value: Any) -> float:
    """Return a number of the kind that ``value`` has: an int, a bool or a float."""
    try:
        number = float(value)
    except OverflowError:
        raise UnusableValue("an integer is too large for a float64; it is not recorded") from None
    if isinstance(value, int):
        return value if isinstance(value, bool) else int(value)
    return number


def _from_array_like(value: Any) -> float | str:
    """Take the one element of an object that only numpy can read; a larger one is not converted."""
    size = math.prod(getattr(value, "shape", ()))
    array = value.__array__() if size == 1 else None
    if array is None or array.size != 1:
        raise _no_scalar(value, size if array is None else array.size)
    return _from_numpy(array)


def _no_scalar(value: Any, size: int) -> UnusableValue:
    return UnusableValue(
        f"a {_type_name(value)} of {size} values is not a scalar and is not recorded; log its mean, for "
        "example"
    )


def _from_one(value: Any, size: int) -> float | str:
    if size != 1:
        raise _no_scalar(value, size)
    if getattr(value.dtype, "kind", "") in {"m", "M"}:
        raise UnusableValue(f"a {value.dtype} is a time, not a number; log its seconds, or its text")
    item = value.item()
    if isinstance(item, (float, int, str)):
        return _from_python(item)
    if getattr(getattr(item, "dtype", None), "kind", "") == "f":  # numpy.longdouble is no Python float
        return float(item)
    raise UnusableValue(f"a {_type_name(value)} of {_type_name(item)} is not a number; it is not recorded")


def _from_tensor(tensor: Any, torch: Any) -> Value:
    if is_collective(tensor):
        return _from_collective(tensor, torch)
    if type(tensor).__module__.startswith("torch.distributed"):
        raise UnusableValue(
            "a distributed tensor takes communication to read; log tensor.full_tensor().item()"
        )
    tensor = tensor.detach()
    if tensor.device.type == "cpu" or tensor.numel() != 1:
        return _from_one(tensor, tensor.numel())
    if tensor.dtype.is_complex:
        raise UnusableValue("a complex tensor is not a number; it is not recorded")
    if has_streams(tensor.device.type, torch):
        return copy_number(tensor, torch)
    refuse_capture(tensor.device.type, torch)
    return ComputedArray(tensor.clone())  # the clone is enqueued; a thread of its own reads it


def _from_collective(tensor: Any, torch: Any) -> Value:
    if tensor.numel() != 1:
        raise _no_scalar(tensor, tensor.numel())
    try:
        result = result_of(tensor, torch)
    except UnknownCollective as unknown:
        raise UnusableValue(str(unknown)) from None
    return result if isinstance(result, Running) else _from_tensor(result, torch)


def _from_jax(array: Any, jax: Any) -> Deferred:
    if isinstance(array, jax.core.Tracer):
        raise UnusableValue("a value inside jit has no number yet; return it and log it outside of jit")
    if array.size != 1:
        return _from_one(array, array.size)  # type: ignore[return-value]  # always raises
    if not (array.is_fully_addressable or array.is_fully_replicated):
        raise UnusableValue("an array spread over processes takes communication to read; it is not recorded")
    return ComputedArray(array)  # immutable: no copy is needed


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
