"""The end of a daemon: ranks finish, runs end, the rest is delivered, and every part stops.

Order: the ranks' grace → the server → the recorder's last commits → the pumps, within the drain timeout →
the last status → the recorder.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import grpc.aio
import structlog

from tracker_daemon.admission.parts import CommonParts, RoleParts
from tracker_daemon.endpoints.announcement import Announcement
from tracker_daemon.errors import JournalError
from tracker_daemon.lifecycle.drain import deliver_rest
from tracker_daemon.lifecycle.shutdown_grace import ShutdownGrace
from tracker_daemon.runs.launch_outcome import LaunchOutcome
from tracker_daemon.service.reporter import StatusReporter
from tracker_daemon.service.rest import Rest
from tracker_daemon.service.stop_request import StopRequest
from tracker_daemon.status.document import write_last
from tracker_protocol import limits

log = structlog.get_logger(__name__)
_SERVER_GRACE_S = 0.5
_PUMPS_STOP_S = 5.0


class Shutdown:
    """Ends the daemon of ``launch_id`` ("": of no launch). On the event loop."""

    def __init__(
        self,
        common: CommonParts,
        role: RoleParts,
        grace: ShutdownGrace,
        reporter: StatusReporter,
        announcement: Announcement,
        stop: StopRequest,
        launch_id: str,
        rest: Rest | None,
    ) -> None:
        self._rest = rest
        self._registry = common.registry
        self._recorder = common.recorder
        self._journal_calls = common.journal_calls
        self._directory: Path = common.journal.directory
        self._role = role
        self._grace = grace
        self._reporter = reporter
        self._announcement = announcement
        self._stop = stop
        self._launch_id = launch_id
        self._endings = common.endings

    def take_signal(self, number: signal.Signals) -> None:
        """Begin to drain at the first signal; end at once at a later Ctrl-C, with the rest in the journal.

        A later SIGTERM has no effect: batch systems send it to all processes, and wrappers to their children.
        """
        if not self._stop.is_asked:
            self._grace.begin(number)
            self._role.pumps.watch_closely()
        elif number == signal.SIGINT:
            self._stop.skip_drain()
            self._grace.end_wait()
        self._stop.ask()

    async def run(self, server: grpc.aio.Server, care: asyncio.Task[None]) -> None:
        """End the daemon; ``care`` is the task of its periodic work."""
        self._stop.draining = True
        try:
            if not self._stop.has_home:
                await server.stop(0)
                return
            await self._serve_until_ranks_finish(care)
            disconnected = self._registry.disconnected_runs()
            failed = self._stop.failure is not None
            if not failed:
                self._role.admission.end_killed(self._grace.overdue_runs())
            await server.stop(0 if failed else _SERVER_GRACE_S)
            if self._stop.failure is None:
                self._endings.end_with_launch(self._directory, self._stop.job_status, self._launch_id)
                await self._journal_calls.probe()
                self._role.admission.end_disconnected(disconnected)
                await self._journal_calls.probe()
                await self._deliver_rest()
        except JournalError as error:
            log.warning("the journal failed while draining", reason=str(error))
        except OSError as error:
            log.warning("the last status could not be written", reason=str(error))
        finally:
            care.cancel()
            await self._stop_parts()

    async def _serve_until_ranks_finish(self, care: asyncio.Task[None]) -> None:
        # Until then ranks still learn of deliveries, and a node's daemon still forwards their messages.
        await self._grace.wait(command_over=LaunchOutcome.is_known(self._directory, self._launch_id))
        await self._endings.await_exit_statuses(min(limits.VANISHED_AFTER_S, self._grace.left_s()))
        care.cancel()

    async def _deliver_rest(self) -> None:
        await self._role.delivery.open_all()
        left_s = self._grace.left_s()

        def timeout_s() -> float:
            return min(self._stop.drain_timeout_s, left_s)

        if not await deliver_rest(self._role.pumps, timeout_s, self._write_last_status):
            log.warning("not everything is delivered; the journal keeps the rest for the next start")
        if self._rest is None or not self._rest.is_lasting:
            await self._role.delivery.close_directories()
            await self._write_last_status()

    async def _write_last_status(self) -> None:
        write_last(self._directory, await self._reporter.document())

    async def _stop_parts(self) -> None:
        await self._role.admission.close()
        await asyncio.to_thread(self._role.pumps.stop, _PUMPS_STOP_S)
        await asyncio.to_thread(self._recorder.stop)
        self._announcement.withdraw()
        log.info("stopped")
