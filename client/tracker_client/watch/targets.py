"""The watched parameters of a model, their names, and the tensors whose hooks report their gradients.

A parameter has its name in the model itself: the wrappers of data parallelism, compilation and checkpointing
are removed. FSDP's first version may hide the parameters that it shards behind flat ones; then the hook is
on the flat parameter.
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
"""Classes that wrap a model, each with the attribute that holds the model."""
_INNER_WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module.")


@dataclass(frozen=True)
class Target:
    """A watched parameter, held by a weak reference."""

    name: str
    parameter: weakref.ref[Any]


@dataclass(frozen=True)
class Signal:
    """A tensor with a hook: when ``tensor`` has its gradient, so have the targets at these places."""

    tensor: Any
    targets: tuple[int, ...]


def targets_of(model: Any, prefix: str) -> list[tuple[str, Any]]:
    """Return the names and parameters of ``model``; a parameter that modules share has its first name."""
    return [(prefix + _plain(name), parameter) for name, parameter in _unwrapped(model).named_parameters()]


def signals_of(model: Any, parameters: list[Any]) -> tuple[list[Signal], tuple[int, ...]]:
    """Return the tensors that need a hook, and the places of parameters that never have a gradient."""
    place = {id(parameter): at for at, parameter in enumerate(parameters)}
    signals = [
        Signal(flat, tuple(place[id(one)] for one in hidden if id(one) in place))
        for flat, hidden in _flat_parameters(model)
    ]
    hidden_places = {at for signal in signals for at in signal.targets}
    others = [(at, one) for at, one in enumerate(parameters) if at not in hidden_places]
    plain = [at for at, one in others if one.requires_grad]
    frozen = tuple(at for at, one in others if not one.requires_grad)
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
    """Yield FSDP's flat parameters, each with the parameters that it hides (``use_orig_params=True``)."""
    for module in model.modules():
        flat = getattr(getattr(module, "_handle", None), "flat_param", None)
        hidden = getattr(flat, "_params", None)
        if flat is not None and hidden:
            yield flat, list(hidden)
