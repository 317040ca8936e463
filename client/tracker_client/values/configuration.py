"""Converts a run's configuration, of any kind, to a strict JSON object.

Known kinds are recognised by their shape, without an import:

* mappings, dataclasses, ``argparse.Namespace``, pydantic's and attrs' models, named tuples;
* OmegaConf's containers: each value is resolved if that is possible, else kept as it is written;
* enums, paths, dates, sets, bytes, numbers, and small arrays of numpy and torch.

Another object becomes an object of its attributes if it is the whole configuration, or if its class defines
neither ``__str__`` nor ``__repr__``. Otherwise it becomes its text. Numbers that are not finite, or have more
than 64 bits, become texts, since JSON cannot hold them.

Texts of secret names are masked (:mod:`~tracker_client.values.secret_names`), also within lists and objects
of such a name, and so are secrets and users of URLs within texts. Nothing here raises: a value that fails to
convert becomes the name of its type.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from enum import Enum
from itertools import islice
from types import BuiltinFunctionType, FunctionType
from typing import Any

from tracker_client.values.arguments import JSON_DEPTH_MAX, valid_text
from tracker_client.values.secret_names import MASK, is_secret, is_secret_name, mask_arguments, mask_secrets
from tracker_protocol import limits

VALUES_MAX = limits.CONFIG_MAX_BYTES // 2
"""A bound on the values: each takes at least two characters of JSON, itself and a separator."""
EMPTY_CONFIGURATION = "{}"
CYCLE = "<itself>"
LEFT_OUT = "<left out>"
_NAMES_SHOWN = 5
_UNUSABLE = object()

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


@dataclass(frozen=True)
class Configuration:
    """A configuration as JSON.

    Attributes:
        values: a JSON object, as Python's dicts, lists, texts, numbers, booleans and None.
        document: the same, encoded; at most CONFIG_MAX_BYTES.
        warning: a sentence for the user about values that were left out; "" if there are none.
    """

    values: dict[str, Any]
    document: str
    warning: str = ""


def read_configuration(config: Any) -> Configuration | None:
    """Convert ``config`` to a JSON object; return None if it has no names and values.

    If it takes more than CONFIG_MAX_BYTES, the largest values are left out and named in the warning.
    """
    reader = _Reader()
    try:
        plain = reader.whole(config)
    except Exception:  # noqa: BLE001 - reading a foreign object runs its own code, which may raise anything
        return None
    if not isinstance(plain, dict):
        return None
    warnings = []
    if reader.left < 0:
        warnings.append(f"it has more than {VALUES_MAX} values; the rest are left out")
    removed = _fit(plain)
    if removed:
        named = ", ".join(f"{name} ({size} bytes)" for size, name in removed[:_NAMES_SHOWN])
        more = f" and {len(removed) - _NAMES_SHOWN} more" if len(removed) > _NAMES_SHOWN else ""
        warnings.append(
            f"{limits.CONFIG_MAX_BYTES} bytes of JSON may be recorded; the largest values are left out: "
            f"{named}{more}"
        )
    return Configuration(plain, _encode(plain), "; ".join(warnings))


def _name(key: Any) -> str:
    try:
        return _text(str(key.value if isinstance(key, Enum) else key))
    except Exception:  # noqa: BLE001 - a foreign object may raise anything
        return f"<{type(key).__name__}>"


class _Reader:
    """One conversion: the number of values that it may still take, and the containers it is within."""

    def __init__(self) -> None:
        self.left = VALUES_MAX
        self._open: set[int] = set()

    def whole(self, config: Any) -> Any:
        """Convert the configuration itself; a plain object becomes its attributes, even if it has a text."""
        items = _items(config)
        if items is None and not isinstance(config, (type, str, bytes, list, tuple, set, frozenset)):
            attributes = getattr(config, "__dict__", None)
            items = _attributes(attributes) if isinstance(attributes, dict) else None
        return _UNUSABLE if items is None else self._named(config, items, JSON_DEPTH_MAX)

    def value(self, value: Any, depth: int, name: str = "") -> Any:
        """Convert ``value`` to JSON, masked if ``name`` is a secret's; on failure return its type's name."""
        self.left -= 1
        if self.left < 0:
            return LEFT_OUT
        try:
            plain = self._value(value, depth)
            return plain if isinstance(value, (int, float)) else _masked(name, plain)
        except Exception:  # noqa: BLE001 - a foreign object may raise anything; one value must not cost the others
            return f"<{type(value).__name__}>"

    def _value(self, value: Any, depth: int) -> Any:
        plain = _scalar(value)
        if plain is not _UNUSABLE:
            return plain
        items = _items(value)
        if items is not None:
            return self._named(value, items, depth)
        if isinstance(value, (list, tuple)) or _is_omega(value, "ListConfig"):
            return self._listed(value, value, depth)
        if isinstance(value, (set, frozenset)):
            return self._listed(value, sorted(value, key=str), depth)
        array = _array(value)
        if array is not _UNUSABLE:
            return (
                self.value(array, depth) if not isinstance(array, list) else self._listed(value, array, depth)
            )
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict) and _has_no_text(type(value)):
            return self._named(value, _attributes(attributes), depth)
        return _text(str(value))

    def _named(self, value: Any, items: Iterable[tuple[Any, Any]], depth: int) -> Any:
        return self._guarded(value, depth, lambda: self._pairs(items, depth))

    def _pairs(self, items: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key, item in items:
            if self.left <= 0:
                self.left = -1
                break
            name = _name(key)
            plain[name] = self.value(item, depth - 1, name)
        return plain

    def _listed(self, value: Any, items: Any, depth: int) -> Any:
        count = len(items)
        if count > self.left:
            self.left = -1
            return f"<{type(value).__name__} of {count}>"
        return self._guarded(
            value, depth, lambda: _without_secrets([self.value(item, depth - 1) for item in _each(items)])
        )

    def _guarded(self, value: Any, depth: int, read: Callable[[], Any]) -> Any:
        """Convert a container, unless it lies too deep or within itself."""
        if depth <= 0:
            return f"<{type(value).__name__}>"
        if id(value) in self._open:
            return CYCLE
        self._open.add(id(value))
        try:
            return read()
        finally:
            self._open.discard(id(value))


def _without_secrets(plain: list[Any]) -> list[Any]:
    """Mask secrets behind the names of options, in a list that may be a command's arguments."""
    is_command = any(isinstance(item, str) and item.startswith("-") for item in plain)
    return mask_arguments(plain) if is_command else plain


def _masked(name: str, plain: Any) -> Any:
    """Mask the texts in ``plain`` that are secrets, as values of this name; never a number or None."""
    if isinstance(plain, str):
        return MASK if is_secret(name, plain) else plain
    if isinstance(plain, list):
        return [_masked(name, item) for item in plain]
    if isinstance(plain, dict) and is_secret_name(name):
        return {key: _masked(name, item) for key, item in plain.items()}
    return plain


# ---- single values -------------------------------------------------------------------------------


def _scalar(value: Any) -> Any:
    """Convert a value without parts to JSON; return _UNUSABLE for any other."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        inner = _scalar(value.value)
        return value.name if inner is _UNUSABLE else inner
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    return _described(value)


def _described(value: Any) -> Any:
    """Return the text of a date, bytes, a secret, a path, a class or a function; _UNUSABLE for others."""
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return _text(bytes(value[: limits.TEXT_VALUE_MAX_CHARACTERS]).decode("utf-8", "backslashreplace"))
    if hasattr(type(value), "get_secret_value"):
        return MASK
    if isinstance(value, os.PathLike):
        path = os.fspath(value)
        return _text(path if isinstance(path, str) else os.fsdecode(path))
    if isinstance(value, (type, FunctionType, BuiltinFunctionType)):
        return _text(f"{value.__module__}.{value.__qualname__}")
    return _UNUSABLE


def _text(text: str) -> str:
    """Return ``text`` with secrets masked, valid in UTF-8, and without addresses, which differ by process."""
    # A longer text would not fit anyway.
    return _ADDRESS.sub("", mask_secrets(valid_text(str.__str__(text)[: limits.CONFIG_MAX_BYTES + 1])))


def _array(value: Any) -> Any:
    """Return an array's number or list of numbers; the shape of a large array; _UNUSABLE if it is none."""
    if not (hasattr(value, "tolist") and hasattr(value, "shape") and hasattr(value, "dtype")):
        return _UNUSABLE
    count = math.prod(value.shape)
    if count > limits.CONFIG_ARRAY_VALUES_MAX:
        return f"<{type(value).__name__} of shape {tuple(value.shape)}, {value.dtype}>"
    kind = getattr(value.dtype, "kind", "")
    if kind == "M":  # tolist() would return nanoseconds
        return value.astype(str).tolist()
    if kind == "m":
        return str(value)
    # numpy.longdouble has no Python float of its own; tolist() returns it as it is.
    return value.astype("float64").tolist() if kind == "f" else value.tolist()


# ---- objects with names and values ---------------------------------------------------------------


def _items(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Return the names and values of a known kind of object; None for any other."""
    kind = type(value)
    if _is_omega(value, "DictConfig"):
        return _omega_items(value)
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, type):
        return None
    for names in (_dataclass_names, _pydantic_names, _attrs_names, _namedtuple_names):
        found = names(kind)
        if found is not None:
            extra = getattr(value, "__pydantic_extra__", None) or {}
            return [*((name, getattr(value, name, LEFT_OUT)) for name in found), *extra.items()]
    if kind.__name__ in {"Namespace", "SimpleNamespace"}:
        return _attributes(vars(value))
    return None


def _dataclass_names(kind: type) -> Iterable[str] | None:
    return [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else None


def _pydantic_names(kind: type) -> Iterable[str] | None:
    """Return the names of a pydantic model: version 2 has ``model_fields``, version 1 ``__fields__``."""
    for name in ("model_fields", "__fields__"):
        fields = getattr(kind, name, None)
        if isinstance(fields, Mapping):
            return [*fields]
    return None


def _attrs_names(kind: type) -> Iterable[str] | None:
    fields = getattr(kind, "__attrs_attrs__", None)
    return None if fields is None else [field.name for field in fields]


def _namedtuple_names(kind: type) -> Iterable[str] | None:
    names = getattr(kind, "_fields", None)
    return names if issubclass(kind, tuple) and isinstance(names, tuple) else None


def _attributes(attributes: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    return [(name, value) for name, value in attributes.items() if not str(name).startswith("_")]


def _has_no_text(kind: type) -> bool:
    """Return True if the class defines no text of its own, so that attributes describe its objects better."""
    return all(getattr(kind, name) is getattr(object, name) for name in ("__str__", "__repr__"))


def _is_omega(value: Any, name: str) -> bool:
    kind: Any = getattr(sys.modules.get("omegaconf"), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def _omega_items(config: Any) -> list[tuple[Any, Any]]:
    """Resolve each value by itself; a value that is missing or cannot be resolved stays as it is written."""
    written = sys.modules["omegaconf"].OmegaConf.to_container(config, resolve=False)
    return [(key, _resolved(config, key, raw)) for key, raw in (written or {}).items()]


def _each(items: Any) -> Iterable[Any]:
    if not _is_omega(items, "ListConfig"):
        return list(islice(items, len(items)))
    written = sys.modules["omegaconf"].OmegaConf.to_container(items, resolve=False)
    return [_resolved(items, index, raw) for index, raw in enumerate(written or [])]


def _resolved(container: Any, key: Any, written: Any) -> Any:
    try:
        return container[key]
    except Exception:  # noqa: BLE001 - a resolver is the user's code, and may raise anything
        return written


# ---- the bound -----------------------------------------------------------------------------------


def _fit(plain: dict[str, Any]) -> list[tuple[int, str]]:
    """Remove the largest values until the rest fits; return their sizes in bytes and their names."""
    excess = _size(plain) - limits.CONFIG_MAX_BYTES
    if excess <= 0:
        return []
    removed = []
    leaves = sorted(_leaves(plain, ()), key=lambda leaf: leaf[0], reverse=True)
    for size, holder, key, name in leaves:
        if excess <= 0:
            break
        del holder[key]
        excess -= size
        removed.append((size, name[:80]))
    return removed


def _leaves(plain: dict[str, Any], path: tuple[str, ...]) -> Iterable[tuple[int, dict[str, Any], str, str]]:
    """Yield for each value that is no dict: its bytes with its name, its dict, its key, its dotted name."""
    for key, value in plain.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield _size({key: value}) - 2, plain, key, ".".join((*path, key))


def _size(value: Any) -> int:
    return len(_encode(value).encode())


def _encode(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
