"""Tells clients how the runs of their backends are found, when they ask and when it changes."""

from __future__ import annotations

from tracker_daemon.delivery.fleet import Fleet
from tracker_daemon.delivery.health import DeliveryState
from tracker_daemon.ingest.session import Session
from tracker_protocol.v1 import tracker_pb2 as pb


def tell_handles(session: Session, fleet: Fleet) -> None:
    """Answer what ``session`` has asked and was not told yet."""
    if not session.asked_handles:
        return
    row_id = session.stream.run.live.row_id
    for backend, told in session.asked_handles.items():
        known = _known(backend, row_id, fleet)
        if known.backend and known != told:
            session.asked_handles[backend] = known
            session.send(pb.DaemonMessage(backend_handles=known))


def _known(backend: str, row_id: int, fleet: Fleet) -> pb.BackendHandles:
    """The answer; the empty message, which is never sent, while it may still come."""
    unusable = fleet.unusable(row_id).get(backend)
    if unusable:
        return pb.BackendHandles(backend=backend, problem=unusable)
    health = fleet.health(row_id).get(backend)
    if health is not None and health.handles:
        return pb.BackendHandles(backend=backend, handles=health.handles)
    if health is not None and health.state is DeliveryState.PAUSED:
        return pb.BackendHandles(backend=backend, problem=f"{backend} is paused: {health.reason}")
    return pb.BackendHandles()
