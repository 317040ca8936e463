"""Flattens nested dicts of metrics: ``{"eval": {"loss": 1}}`` is the metric ``eval.loss``, in every backend.

W&B shows nested metrics so, and MLflow's parameters of the configuration have such names. Keys of a nested
dict may be numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tracker_client.values.refusals import Refusals
from tracker_protocol import limits


def flatten(metrics: Mapping[Any, Any], refusals: Refusals) -> Iterator[tuple[Any, Any]]:
    """Yield the names and values of ``metrics``, those of nested dicts under dotted names.

    A nested key that is neither text nor number, an empty dict, and dicts nested deeper than
    METRICS_NESTED_DEPTH_MAX are refused.
    """
    for key, value in dict(metrics).items():
        if isinstance(value, dict) and isinstance(key, str):
            yield from _open(key, value, refusals, 1)
        else:
            yield key, value


def _open(name: str, nested: dict[Any, Any], refusals: Refusals, depth: int) -> Iterator[tuple[Any, Any]]:
    if depth > limits.METRICS_NESTED_DEPTH_MAX:
        most = limits.METRICS_NESTED_DEPTH_MAX
        refusals.refuse(name, f"dicts are nested more than {most} deep; deeper values are not recorded")
        return
    if not nested:
        refusals.refuse(name, "an empty dict holds no value; nothing is recorded")
    for key, value in nested.copy().items():
        if not isinstance(key, (str, int, float)):
            reason = f"a name within a dict is a text or a number, not a {type(key).__name__}"
            refusals.refuse(name, f"{reason}; it is not recorded")
        elif isinstance(value, dict):
            yield from _open(f"{name}.{key}", value, refusals, depth + 1)
        else:
            yield f"{name}.{key}", value
