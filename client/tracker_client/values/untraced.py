"""Keeps ``torch.compile`` from tracing into a tracker's calls.

A call within a compiled function breaks the graph there, and runs as it is. Traced, it would be compiled
frame by frame, and a value such as the time would become a constant of the graph.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])
_PACKAGES = ("tracker_client", "tracker_daemon")
_done: set[str] = set()


def untraced(method: Method) -> Method:
    """Mark a method, as ``torch.compiler.disable`` marks a function, without an import of torch."""
    method._torchdynamo_disable = True  # type: ignore[attr-defined]  # noqa: SLF001 - torch reads this name
    return method


def leave_out_of_graphs() -> None:
    """Have the compiler skip this package's files, once the script has imported the compiler."""
    add = getattr(sys.modules.get("torch._dynamo.trace_rules"), "add", None)
    if add is None or _done:
        return
    _done.update(_PACKAGES)
    for package in _PACKAGES:
        if package in sys.modules:
            add(package)
