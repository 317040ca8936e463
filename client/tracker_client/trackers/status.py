"""The status of a tracker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrackerStatus:
    """The result of ``Tracker.status()``: this process's own state, without a request to the daemon.

    A point is one value of one metric: ``log()`` of ten metrics makes ten points. Counts are totals since the
    tracker was set up, unless a field's description differs.
    """

    state: str = "disabled"
    """connecting, connected, disconnected, finished, unfinished (``finish`` ran out of time), inprocess or
    disabled."""
    run_id: str | None = None
    """The run's id; None until the daemon has sent it."""
    attempt: int | None = None
    """The number of this attempt at the run, from 1; None until the daemon has sent it."""
    buffered_points: int = 0
    """Points that wait to be sent at present."""
    unacknowledged_points: int = 0
    """Points that are sent, or ready to be sent, and not acknowledged at present."""
    unacknowledged_batches: int = 0
    """Batches that hold the unacknowledged points."""
    unacknowledged_bytes: int = 0
    """The size of these batches."""
    acknowledged_sequence: int = 0
    """The highest sequence of a batch that the daemon has acknowledged; 0 if there is none."""
    dropped_points: int = 0
    """Points that did not fit the buffer and will never be recorded."""
    refused_values: int = 0
    """Values that cannot be recorded, such as those that are neither numbers nor texts."""
    calls_after_finish: int = 0
    """Calls that were made after ``finish``, and record nothing."""
    calls_elsewhere: int = 0
    """Calls of copies of this tracker in other processes, which record nothing."""
    connections: int = 0
    """Connections that the daemon has accepted."""
    backend_failures: int = 0
    """Calls of a backend in this process that raised."""
    waiting_uploads: int = 0
    """Tables, images and artifacts whose contents the daemon does not have yet."""
    upload_percent: int = 0
    """The part of the current file that is uploaded, in percent."""
    problem: str = ""
    """The reason why there is no connection; empty while there is one."""
