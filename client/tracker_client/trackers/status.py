"""The status of a tracker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrackerStatus:
    """The answer of ``Tracker.status()``: this process's own state, without a question to the daemon.

    A point is a value: ``log()`` of ten metrics makes ten points. ``dropped_points`` did not fit the buffer
    and will never be recorded. ``refused_values`` were neither numbers nor texts.
    """

    state: str = "disabled"
    """connecting, connected, disconnected, finished, unfinished (``finish`` ran out of time), inprocess or
    disabled."""
    run_id: str | None = None
    attempt: int | None = None
    buffered_points: int = 0
    unacknowledged_points: int = 0
    unacknowledged_batches: int = 0
    unacknowledged_bytes: int = 0
    acknowledged_sequence: int = 0
    dropped_points: int = 0
    refused_values: int = 0
    calls_after_finish: int = 0
    connections: int = 0
    backend_failures: int = 0
    """Calls of a backend in this process that failed."""
    waiting_uploads: int = 0
    """Tables, images and artifacts whose contents the daemon does not have yet."""
    upload_percent: int = 0
    """The part of the present file that is sent, in percent."""
    problem: str = ""
    """The reason why there is no connection; empty while there is one."""
