"""Warnings of a tick, for people: in the daemon's log and at the primary rank's terminal."""

from __future__ import annotations

import structlog

from tracker_daemon.ingest.session import Session
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.runs.registry import Registry
from tracker_protocol.v1 import tracker_pb2 as pb

log = structlog.get_logger(__name__)


def send_warnings(registry: Registry, live: LiveRun) -> None:
    """Log a run's new warnings, and send them to its primary rank if it is connected. On the event loop."""
    while live.warnings:
        text = live.warnings.popleft()
        log.warning(text, run_id=live.run_id)
        run = registry.runs.get(live.run_id)
        primary = run.by_rank.get((run.attempt, run.options.primary_rank)) if run else None
        if primary is not None and isinstance(primary.connection, Session):
            primary.connection.send(pb.DaemonMessage(notice=pb.Notice(text=text)))
