"""Which parameters of a model are watched, what they are called, and what tells that one has its gradient.

A parameter is called as in the model itself: the wrappers of data parallelism, compilation and
checkpointing are taken off. FSDP's first version may hide the parameters that it shards behind
flat ones, and then the flat ones tell.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "OptimizedModule": "_orig_mod",
}
"""Classes around a model, and the attribute that holds it."""
_INNER_WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module.")


@dataclass(frozen=True)
class Target:
    """A watched parameter, which this does not keep alive."""

    name: str
    parameter: weakref.ref[Any]


@dataclass(frozen=True)
class Signal:
    """When ``tensor`` has its gradient, so have the targets at these places."""

    tensor: Any
    targets: tuple[int, ...]


def targets_of(model: Any, prefix: str) -> list[tuple[str, Any]]:
    """The names and parameters of ``model``; one that several modules share has its first name."""
    return [(prefix + _plain(name), parameter) for name, parameter in _unwrapped(model).named_parameters()]


def signals_of(model: Any, parameters: list[Any]) -> tuple[list[Signal], tuple[int, ...]]:
    """What tells of the parameters' gradients, and the places of those that never have one."""
    place = {id(parameter): at for at, parameter in enumerate(parameters)}
    signals = [
        Signal(flat, tuple(place[id(one)] for one in hidden if id(one) in place))
        for flat, hidden in _flat_parameters(model)
    ]
    told = {at for signal in signals for at in signal.targets}
    plain = [at for at, one in enumerate(parameters) if one.requires_grad and at not in told]
    frozen = tuple(at for at, one in enumerate(parameters) if not one.requires_grad and at not in told)
    return [*signals, *(Signal(parameters[at], (at,)) for at in plain)], frozen


def _unwrapped(model: Any) -> Any:
    while True:
        names = {kind.__name__ for kind in type(model).__mro__ if kind.__module__.startswith("torch.")}
        attribute = next((_WRAPPERS[name] for name in names if name in _WRAPPERS), None)
        if attribute is None:
            return model
        model = getattr(model, attribute)


def _plain(name: str) -> str:
    for wrapper in _INNER_WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _flat_parameters(model: Any) -> Iterator[tuple[Any, list[Any]]]:
    """FSDP's flat parameters, each with those that it hides (``use_orig_params=True``)."""
    for module in model.modules():
        flat = getattr(getattr(module, "_handle", None), "flat_param", None)
        hidden = getattr(flat, "_params", None)
        if flat is not None and hidden:
            yield flat, list(hidden)
