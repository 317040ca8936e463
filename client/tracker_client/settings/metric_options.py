"""Options of ``setup_tracker`` that apply by metric, as texts for the daemon.

Each is a text such as ``"lr=none,loss=mean+max"``, or a dict from globs of metric names to a value or a list
of values. The daemon parses the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracker_client.errors import SettingsError
from tracker_client.values.arguments import valid_text

METRIC_OPTIONS = ("aggregates", "step_axes", "summaries", "thinning")


@dataclass(frozen=True)
class MetricOptions:
    """Rules by metric for this run, in the daemon's syntax; they win over the daemon's own rules."""

    aggregates: str = ""
    step_axes: str = ""
    summaries: str = ""
    thinning: str = ""


def read_metric_options(options: Mapping[str, Any]) -> MetricOptions:
    """Read the rules from ``options``, the keyword arguments of ``setup_tracker``.

    Raises:
        SettingsError: a rule is neither a text nor a dict.
    """
    return MetricOptions(**{name: _rules_text(name, options.get(name)) for name in METRIC_OPTIONS})


def _rules_text(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        value = ",".join(f"{glob}={_joined(rule)}" for glob, rule in value.items())
    if not isinstance(value, str):
        raise SettingsError(
            f"{name} is {value!r}; it must be a dict from globs of metrics to values, or 'GLOB=VALUE,…'"
        )
    return valid_text(value)


def _joined(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, (list, tuple, set, frozenset)) else str(value)
