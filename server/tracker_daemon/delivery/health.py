"""What the status shows of one backend of one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class DeliveryState(str, Enum):
    """How a backend is doing."""

    HEALTHY = "healthy"
    BEHIND = "behind"
    """It takes what it is given, and has not caught up for a while."""
    RETRYING = "retrying"
    """Its store cannot be reached or written now."""
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
    """Why something was set aside, the last time that it was since the daemon started."""
    handles: Mapping[str, str] = field(default_factory=dict)
    """How its run is found."""
