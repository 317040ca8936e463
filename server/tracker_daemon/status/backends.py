"""The status of a run's backends."""

from __future__ import annotations

from pathlib import Path

from tracker_daemon.backends.root import UPSTREAM
from tracker_daemon.delivery.health import BackendHealth, DeliveryState
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.delivery.thinned_backend import thinned_so_far
from tracker_daemon.outbox.lanes import backend_of, is_files_lane
from tracker_daemon.runs.run import Run
from tracker_daemon.status.document import BackendStatus
from tracker_daemon.status.facts import JournalFacts


def backend_statuses(run: Run, facts: JournalFacts, pumps: PumpSet) -> list[BackendStatus]:
    """Return the status of each backend.

    The counts are those of committed cursors, so emitted = delivered + pending + set aside always holds.
    """
    healths = pumps.health(run.live.row_id)
    unusable = pumps.unusable(run.live.row_id)
    backlog = facts.backlogs[run.run_id]
    statuses = []
    for cursor in backlog.cursors:
        if is_files_lane(cursor.backend) and not backlog.last_files:
            continue  # shown only if the run has files
        health = healths.get(cursor.backend)
        records, points = thinned_so_far(cursor.state)
        reason = unusable.get(cursor.backend) or (health.reason if health else "")
        state = health.state if health else DeliveryState.PAUSED if reason else DeliveryState.HEALTHY
        statuses.append(
            BackendStatus(
                name=cursor.backend,
                unit=_unit_of(cursor.backend),
                state=state.value,
                reason=reason or None,
                delivered=cursor.delivered_records - records,
                thinned=records,
                thinned_points=points,
                pending=backlog.pending(cursor)
                + (open_batches(run, facts) if cursor.backend == UPSTREAM else 0),
                set_aside=cursor.set_aside,
                set_aside_reason=(health.set_aside_reason if health else "") or None,
                location=_location(run, health) if health else None,
            )
        )
    return statuses


def _location(run: Run, health: BackendHealth) -> str | None:
    """Return where the run is now: an ended run's directory may have been moved since the backend opened."""
    if health.location is None or health.place_in_run is None:
        return health.location
    return str(Path(run.options.directory, health.place_in_run))


def _unit_of(cursor: str) -> str:
    if is_files_lane(cursor):
        return "items"
    return "batches" if backend_of(cursor) == UPSTREAM else "records"


def open_batches(run: Run, facts: JournalFacts) -> int:
    """Return 1 if values for the root are gathered and in no batch yet, else 0: they become one batch."""
    return int(run.run_id in facts.gathered)
