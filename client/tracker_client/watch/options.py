"""The arguments of ``watch()``, and their defaults."""

from __future__ import annotations

from typing import Any, TypedDict

GRADIENTS, PARAMETERS, ALL = "gradients", "parameters", "all"
LOG_FREQ = 100
"""By default a watched parameter is measured once in this many backward passes."""


class WatchOptions(TypedDict, total=False):
    """The keyword arguments of :meth:`tracker_client.Tracker.watch`.

    A backend of the script receives the arguments that the script gave, and has defaults of its own.
    """

    log: str | None
    log_freq: int
    idx: int | None
    criterion: Any
    log_graph: Any
