"""What a script says by metric: options of ``setup_tracker``, and definitions while the run lasts.

Each option is a text such as ``"lr=none,loss=mean+max"``, or a dict from globs of metric names to a value or
a list of values. The daemon parses the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracker_client.errors import SettingsError
from tracker_client.values.arguments import valid_text
from tracker_protocol import limits

SUMMARIES = ("last", "min", "max", "mean", "none")
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


# ---- definitions ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class MetricDefinition:
    """The metrics that the glob ``name`` fits have this axis and this summary; None says nothing about it."""

    name: str
    step_metric: str | None = None
    summary: str | None = None


def read_definition(name: Any, step_metric: Any, summary: Any) -> MetricDefinition:
    """Return a definition; ``step_metric`` may be the definition of the axis.

    Raises:
        SettingsError: a name is no text, or too long, or the summary is unknown.
    """
    axis = getattr(step_metric, "name", step_metric)
    for what, text in (("name", name), ("step_metric", axis)):
        size = len(text.encode(errors="replace")) if isinstance(text, str) else 0
        if not (text is None and what == "step_metric") and not 0 < size <= limits.METRIC_NAME_MAX_BYTES:
            raise SettingsError(
                f"{what} is {text!r}; it must be a text of 1 to {limits.METRIC_NAME_MAX_BYTES} bytes"
            )
    if summary is not None and summary not in SUMMARIES:
        raise SettingsError(f"summary is {summary!r}; it must be one of {', '.join(SUMMARIES)}, or None")
    return MetricDefinition(valid_text(name), None if axis is None else valid_text(axis), summary)
