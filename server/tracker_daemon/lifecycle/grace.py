"""How a job's grace, the time between its SIGTERM and its SIGKILL, is shared out."""

from __future__ import annotations

from tracker_protocol import limits


def ranks_share_s(grace_s: float, *, forwards: bool = False) -> float:
    """What ranks have of a grace, in seconds; the rest is for ending their runs and delivering that.

    Where the daemon ``forwards`` it is less: the daemon above, whose grace ends with this one's, has to
    have what the ranks said last before it closes.
    """
    reserve_s = max(grace_s * limits.GRACE_RESERVE_SHARE, limits.GRACE_RESERVE_MIN_S)
    share_s = max(0.0, grace_s - min(reserve_s, limits.GRACE_RESERVE_MAX_S))
    return max(share_s / 2, share_s - limits.GRACE_FORWARDING_S) if forwards else share_s
