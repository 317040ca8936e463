"""The status of a tracker that streams to a daemon."""

from __future__ import annotations

from tracker_client.sending.published import Published
from tracker_client.sending.sender import Sender
from tracker_client.staging.buffer import StagingBuffer
from tracker_client.trackers.status import TrackerStatus
from tracker_client.transport.uploads import UploadProgress


def remote_status(
    sender: Sender,
    staging: StagingBuffer,
    uploads: UploadProgress,
    *,
    refused_values: int,
    calls_after_finish: int,
    calls_elsewhere: int,
    backend_failures: int,
) -> TrackerStatus:
    """Return the status, from the counts of the tracker's parts."""
    published, unacknowledged = sender.published, sender.batches.unacknowledged
    run = published.run
    return TrackerStatus(
        state=_state(published),
        run_id=run.run_id if run else None,
        attempt=run.attempt if run else None,
        buffered_points=staging.count_points() + sender.batches.blocked_points,
        unacknowledged_points=unacknowledged.held_points,
        unacknowledged_batches=unacknowledged.held_batches,
        unacknowledged_bytes=unacknowledged.held_bytes,
        acknowledged_sequence=unacknowledged.acknowledged,
        dropped_points=staging.dropped_points + unacknowledged.lost_points,
        refused_values=refused_values,
        calls_after_finish=calls_after_finish,
        calls_elsewhere=calls_elsewhere,
        connections=published.connections,
        backend_failures=backend_failures,
        problem=published.problem,
        waiting_uploads=uploads.waiting,
        upload_percent=uploads.percent,
    )


def _state(published: Published) -> str:
    if published.ended.is_set():
        return "finished" if published.finished else "unfinished"
    if published.connected:
        return "connected"
    return "disconnected" if published.connections else "connecting"
