"""The state of one backend of one run, for the status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class DeliveryState(str, Enum):
    """A backend's state, as a person sees it; ``states`` derives it from the pump's phases."""

    HEALTHY = "healthy"
    BEHIND = "behind"
    """It stores what it is given, but has not caught up for a while."""
    RETRYING = "retrying"
    """Its store cannot be reached or written now; the pump, or the backend itself, tries again."""
    PAUSED = "paused"
    """It needs the user's help: credentials, permissions."""


@dataclass(frozen=True, slots=True)
class BackendHealth:
    """One backend's state; ``reason`` is "" while nothing is wrong. Counts are cumulative."""

    name: str
    state: DeliveryState
    reason: str
    delivered_entry: int
    delivered_records: int
    set_aside_records: int
    location: str | None
    set_aside_reason: str = ""
    """The reason of the last set-aside part since the daemon started; "" if there is none."""
    handles: Mapping[str, str] = field(default_factory=dict)
    """The run's identifiers in the backend, by name, as far as they are known: ``id``, ``url`` …"""
    handles_complete: bool = False
    """True once the backend has begun the run, so that it knows of no others."""
    place_in_run: str | None = None
    """The path of ``location`` within the run's directory; None if it is elsewhere."""
