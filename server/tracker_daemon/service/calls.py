"""The daemon's answers to the calls of the server."""

from __future__ import annotations

import os

import msgspec

from tracker_daemon.admission.rank_admission import RankAdmission
from tracker_daemon.ingest.session import Session
from tracker_daemon.lifecycle.shutdown_grace import ShutdownGrace
from tracker_daemon.service.backpressure import Backpressure
from tracker_daemon.service.reporter import StatusReporter
from tracker_daemon.service.stop_request import StopRequest
from tracker_protocol.v1 import tracker_pb2 as pb


class Calls:
    """The :class:`tracker_daemon.ingest.server.DaemonCalls` of a running daemon. On the event loop."""

    def __init__(
        self,
        admission: RankAdmission,
        backpressure: Backpressure,
        grace: ShutdownGrace,
        reporter: StatusReporter,
        stop: StopRequest,
    ) -> None:
        self._admission = admission
        self._backpressure = backpressure
        self._grace = grace
        self._reporter = reporter
        self._stop = stop

    async def admit(self, hello: pb.Hello) -> tuple[Session, pb.DaemonMessage]:
        """Admit a client; return its session and the Welcome, or raise the error for the client."""
        return await self._admission.admit(hello)

    async def admit_rank(self, request: pb.AdmitRequest) -> pb.AdmitReply:
        """Decide about a rank of a node's daemon, or raise the error for that daemon."""
        return await self._admission.admit_rank(request)

    async def wait_for_room(self) -> None:
        """Wait while too much is uncommitted."""
        await self._backpressure.wait()

    def remove(self, session: Session) -> None:
        """Remove an ended connection; its rank may reconnect."""
        self._admission.remove(session)
        self._grace.note_disconnect()

    async def status(self) -> str:
        """Return the status document as JSON."""
        return msgspec.json.encode(await self._reporter.document()).decode()

    def stop(self, timeout_s: float | None, exit_status: int | None) -> int:
        """Ask the daemon to end; return its pid.

        ``exit_status`` is that of a job that has ended; it decides how the job's runs end.
        """
        if timeout_s is not None:
            self._stop.drain_timeout_s = timeout_s
        self._stop.job_status = exit_status
        self._stop.ask()
        return os.getpid()
