"""News of a run's backends for its clients: which backends cannot be used, and the handles of the others."""

from __future__ import annotations

from collections.abc import Mapping

from tracker_daemon.delivery.health import BackendHealth, DeliveryState
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.ingest.session import Session
from tracker_protocol.v1 import tracker_pb2 as pb


def send_backend_news(session: Session, pumps: PumpSet) -> None:
    """Send ``session`` the news that it has not received yet."""
    stream, row_id = session.stream, session.stream.run.live.row_id
    if session.asked_handles:
        _send_handles(session, row_id, pumps)
    if stream.rank == stream.run.options.primary_rank:
        _report_unusable(session, pumps.unusable(row_id))
        _report_paused(session, pumps.health(row_id))
        _report_set_aside(session, pumps.health(row_id))


def _report_unusable(session: Session, unusable: Mapping[str, str]) -> None:
    for reason in unusable.values():
        _send_once(session, f"{reason}. The others continue")


def _report_paused(session: Session, healths: Mapping[str, BackendHealth]) -> None:
    for backend, health in healths.items():
        if health.state is DeliveryState.PAUSED:
            _send_once(session, f"{backend} is paused: {health.reason}. What it would get is kept until then")


def _report_set_aside(session: Session, healths: Mapping[str, BackendHealth]) -> None:
    """Report the first part of the run that each backend could not store; the status counts all of them.

    A class of the script warns in the script's own process.
    """
    for backend, health in healths.items():
        about = f"set aside by {backend}"
        if backend in session.stream.run.script_backends or about in session.stream.notices_sent:
            continue
        if health.set_aside_reason:
            session.stream.notices_sent.add(about)
            session.send_notice(
                f"{backend} cannot store a part of the run, and stores the rest: {health.set_aside_reason}. "
                "Further such parts are counted in tracker-daemon status"
            )


def _send_once(session: Session, news: str) -> None:
    if news not in session.stream.notices_sent:
        session.stream.notices_sent.add(news)
        session.send_notice(news)


def _send_handles(session: Session, row_id: int, pumps: PumpSet) -> None:
    for backend, last_answer in session.asked_handles.items():
        answer = _handles_of(backend, row_id, pumps)
        if answer.backend and answer != last_answer:
            session.asked_handles[backend] = answer
            session.send(pb.DaemonMessage(backend_handles=answer))


def _handles_of(backend: str, row_id: int, pumps: PumpSet) -> pb.BackendHandles:
    """Return the known handles and the problem; an empty message, which is not sent, if there is neither."""
    unusable = pumps.unusable(row_id).get(backend)
    if unusable:
        return pb.BackendHandles(backend=backend, problem=unusable)
    health = pumps.health(row_id).get(backend)
    if health is None:
        return pb.BackendHandles()
    is_paused = health.state is DeliveryState.PAUSED and not health.handles_complete
    problem = f"{backend} is paused: {health.reason}" if is_paused else ""
    if not (health.handles or problem):
        return pb.BackendHandles()
    return pb.BackendHandles(
        backend=backend, handles=health.handles, problem=problem, complete=health.handles_complete
    )
