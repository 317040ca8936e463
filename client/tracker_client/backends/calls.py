"""Calls of a backend's methods, made as scripts expect them, on any class with the methods of a backend.

``step``, ``commit`` and ``caption`` are given by keyword. A method that a class may leave out is not called
on a class without it, and a step is not given to a method without that parameter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol, TypeGuard


class AnyBackend(Protocol):
    """The methods that a class must have to be a backend; it need not derive from ``TrackerBackend``."""

    def log(self, metrics: Any, step: Any = ..., commit: Any = ...) -> Any:
        """Record one row."""

    def finish(self) -> Any:
        """Flush and close."""


_REQUIRED = ("log", "finish")


def is_backend_class(found: object) -> TypeGuard[type[AnyBackend]]:
    """Return True if ``found`` is a class with the methods of :class:`AnyBackend`."""
    return isinstance(found, type) and all(callable(getattr(found, method, None)) for method in _REQUIRED)


def name_of(backend: AnyBackend) -> str:
    """Return the backend's name; its class's name if it has none."""
    return str(getattr(backend, "name", "") or type(backend).__name__)


def call(backend: AnyBackend, method: str, *arguments: Any, step: int | None = None, **named: Any) -> None:
    """Call a method of the backend; do nothing if its class has no such method.

    ``step`` is given if it is not None and the method has that parameter. Raises what the method raises.
    """
    found = getattr(backend, method, None)
    if found is None and method not in _REQUIRED:
        return
    if step is not None and _has_step(found):
        named["step"] = step
    getattr(backend, method)(*arguments, **named)


def finish(backend: AnyBackend, exit_code: int) -> None:
    """Finish the backend with the exit code, or without it if its class does not take one."""
    finish_with: Callable[[int], None] | None = getattr(backend, "finish_with", None)
    if finish_with is None:
        backend.finish()
    else:
        finish_with(exit_code)


def _has_step(method: Any) -> bool:
    try:
        parameters = inspect.signature(method).parameters
    except (TypeError, ValueError):  # a method without a readable signature
        return True
    kinds = (parameter.kind for parameter in parameters.values())
    return "step" in parameters or inspect.Parameter.VAR_KEYWORD in kinds
