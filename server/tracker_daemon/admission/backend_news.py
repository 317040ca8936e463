"""Tells clients of their run's backends: which cannot be used, and, if asked, how the others are found."""

from __future__ import annotations

from collections.abc import Mapping

from tracker_daemon.delivery.health import BackendHealth, DeliveryState
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.ingest.session import Session
from tracker_protocol.v1 import tracker_pb2 as pb


def send_backend_news(session: Session, pumps: PumpSet) -> None:
    """Tell ``session`` what is new to it."""
    stream, row_id = session.stream, session.stream.run.live.row_id
    if session.asked_handles:
        _tell_handles(session, row_id, pumps)
    if stream.rank == stream.run.options.primary_rank:
        _tell_unusable(session, pumps.unusable(row_id))
        _tell_paused(session, pumps.health(row_id))


def _tell_unusable(session: Session, unusable: Mapping[str, str]) -> None:
    for reason in unusable.values():
        _tell_once(session, f"{reason}. The others go on")


def _tell_paused(session: Session, healths: Mapping[str, BackendHealth]) -> None:
    for backend, health in healths.items():
        if health.state is DeliveryState.PAUSED:
            _tell_once(session, f"{backend} is paused: {health.reason}. What it would get is kept until then")


def _tell_once(session: Session, news: str) -> None:
    if news not in session.stream.told:
        session.stream.told.add(news)
        session.tell(news)


def _tell_handles(session: Session, row_id: int, pumps: PumpSet) -> None:
    for backend, told in session.asked_handles.items():
        known = _known(backend, row_id, pumps)
        if known.backend and known != told:
            session.asked_handles[backend] = known
            session.send(pb.DaemonMessage(backend_handles=known))


def _known(backend: str, row_id: int, pumps: PumpSet) -> pb.BackendHandles:
    """The answer; the empty message, which is never sent, while it may still come."""
    unusable = pumps.unusable(row_id).get(backend)
    if unusable:
        return pb.BackendHandles(backend=backend, problem=unusable)
    health = pumps.health(row_id).get(backend)
    if health is not None and health.handles:
        return pb.BackendHandles(backend=backend, handles=health.handles)
    if health is not None and health.state is DeliveryState.PAUSED:
        return pb.BackendHandles(backend=backend, problem=f"{backend} is paused: {health.reason}")
    return pb.BackendHandles()
