"""The division of a job's grace: the time between its SIGTERM and its SIGKILL."""

from __future__ import annotations

from tracker_protocol import limits


def ranks_share_s(grace_s: float, *, forwards: bool = False) -> float:
    """Return the ranks' share of a grace, in seconds. The rest is for ending and delivering their runs.

    If the daemon ``forwards``, the share is smaller: the root, whose grace ends at the same time, must
    receive the ranks' last messages before it closes.
    """
    reserve_s = max(grace_s * limits.GRACE_RESERVE_SHARE, limits.GRACE_RESERVE_MIN_S)
    share_s = max(0.0, grace_s - min(reserve_s, limits.GRACE_RESERVE_MAX_S))
    return max(share_s / 2, share_s - limits.GRACE_FORWARDING_S) if forwards else share_s
