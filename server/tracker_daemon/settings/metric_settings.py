"""Settings by metric, from texts or from tables of the file (see ``rules.metric_rules``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from tracker_daemon.rules.metric_rules import (
    canonical,
    read_aggregates,
    read_step_axes,
    read_summaries,
    read_thinning,
)

CONFIG_MAY_DIFFER = (
    "rank,*_rank,host,hostname,node,node_*,nodename,pid,port,*_port,device,device_*,*_device,gpu,gpu_id,"
    "seed,*_seed"
)
"""Keys that naturally differ between ranks; each glob is matched with a dotted key and its last part."""


def comma_separated(value: object) -> object:
    """Return a list or a table of the file, or repeated flags, as one text with commas."""
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value)
    if isinstance(value, Mapping):
        return ",".join(f"{key}={_joined(item)}" for key, item in value.items())
    return value


def without_blanks(text: str) -> str:
    """Return a text with commas without its blank items."""
    return ",".join(filter(None, map(str.strip, text.split(","))))


def _joined(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _checked(read: Callable[[str], object]) -> Callable[[str], str]:
    return lambda text: canonical(text, read)


_Rules = Annotated[str, BeforeValidator(comma_separated)]
Aggregates = Annotated[_Rules, AfterValidator(_checked(read_aggregates))]
StepAxes = Annotated[_Rules, AfterValidator(_checked(read_step_axes))]
Summaries = Annotated[_Rules, AfterValidator(_checked(read_summaries))]
ThinningRules = Annotated[_Rules, AfterValidator(_checked(read_thinning))]
