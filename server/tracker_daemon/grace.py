"""How a job's grace, the time between its SIGTERM and its SIGKILL, is shared out."""

from __future__ import annotations

from tracker_protocol import limits


def ranks_share_s(grace_s: float) -> float:
    """What ranks have of a grace, in seconds; the rest is for ending their runs and delivering that."""
    reserve_s = max(grace_s * limits.GRACE_RESERVE_SHARE, limits.GRACE_RESERVE_MIN_S)
    return max(0.0, grace_s - min(reserve_s, limits.GRACE_RESERVE_MAX_S))
