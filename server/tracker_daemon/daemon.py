"""The daemon's composition root: which parts there are, and in what order they start and stop.

Start: the journal (and with it the lock) → the addresses → the recorder, which replays → the pumps →
the server → the endpoint file. Stop: the server → the recorder's last commits → the pumps, as long as
the drain may take → the last status → the recorder → the journal.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace

import grpc.aio
import msgspec
import structlog

from tracker_daemon.admission.rank_admission import RankAdmission
from tracker_daemon.admission.root_admission import RootAdmission
from tracker_daemon.admission.script_backends import ScriptBackends
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.registry import known as known_backends
from tracker_daemon.backends.root import RootLane
from tracker_daemon.backends.third_party.script_class import ScriptLinks
from tracker_daemon.delivery.lane import OnLocated
from tracker_daemon.delivery.locations import log_location
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.endpoints.announcement import Announcement
from tracker_daemon.endpoints.binding import BoundAddresses, bind_all
from tracker_daemon.endpoints.endpoint_file import EndpointInfo
from tracker_daemon.errors import JournalError, StateDirectoryError
from tracker_daemon.ingest.server import SERVER_OPTIONS, TokenCheck, TrackerService
from tracker_daemon.ingest.session import Session
from tracker_daemon.journal.rows import Backlog, RunRow, StreamRow
from tracker_daemon.journal.store import Journal
from tracker_daemon.lifecycle.content_care import ContentCare
from tracker_daemon.lifecycle.drain import deliver_rest
from tracker_daemon.lifecycle.idle import IdleWatch
from tracker_daemon.lifecycle.launch_outcome import LaunchOutcome
from tracker_daemon.lifecycle.run_delivery import RunDelivery
from tracker_daemon.lifecycle.run_endings import RunEndings
from tracker_daemon.lifecycle.service_manager import ServiceManager
from tracker_daemon.lifecycle.shutdown_grace import ShutdownGrace
from tracker_daemon.recording.journal_calls import JournalCalls
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.recording.recorder import Recorder, RecorderSettings, Submission
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Run
from tracker_daemon.settings.definitions import Settings
from tracker_daemon.status.document import DaemonStatus, StatusDocument, write_last
from tracker_daemon.status.report import read_facts, standing, status_document
from tracker_daemon.version import VERSION
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

log = structlog.get_logger(__name__)
_CARE_INTERVAL_S = 0.2
_SERVER_GRACE_S = 0.5
_PUMPS_STOP_S = 5.0


def serve(
    settings: Settings,
    *,
    on_ready: Callable[[EndpointInfo], None] | None = None,
    launch_id: str = "",
    on_located: OnLocated = log_location,
) -> int:
    """Run a daemon until SIGTERM or SIGINT, or a Stop call; return its exit status.

    ``launch_id`` is that of the launch for which it is started, if it is one's.

    Raises:
        StateDirectoryError: the state directory is held by another daemon or cannot be used.
        SettingsError: an address cannot be listened at.
        JournalError: the journal cannot be opened.
    """
    directory = settings.state_directory
    journal = Journal.open(directory, history_bytes=settings.history_bytes)
    try:
        return asyncio.run(Daemon(settings, journal, on_located, launch_id).run(on_ready))
    finally:
        journal.close()


class Daemon:
    """One running daemon. Everything here is on the event loop unless it says otherwise."""

    def __init__(
        self, settings: Settings, journal: Journal, on_located: OnLocated, launch_id: str = ""
    ) -> None:
        self._settings = settings
        self._launch_id = launch_id
        self._journal = journal
        self._started_s = time.monotonic()
        self._service_manager = ServiceManager.of(os.environ)
        self._token = settings.token.get_secret_value() if settings.token else journal.token
        self._bound = BoundAddresses((), None)
        self._announcement = Announcement(journal.directory, settings.endpoint_file)
        self._draining = False
        self._drain_timeout_s = settings.drain_timeout_s
        self._job_status: int | None = None
        self._failure: BaseException | None = None
        self._registry = Registry.from_settings(settings)
        self._idle = IdleWatch(settings.idle_timeout_s, settings.orphan_timeout_s, self._started_s)
        self._recorder = Recorder(
            journal, RecorderSettings.from_settings(settings), self._on_tick, self._on_failure
        )
        self._journal_calls = JournalCalls(self._recorder)
        self._endings = RunEndings(self._registry, self._recorder)
        self._shutdown_grace = ShutdownGrace(
            self._registry, settings.grace_s, forwards=settings.upstream is not None
        )
        links = ScriptLinks()
        open_lane = None if settings.upstream is None else self._open_lane
        self._pumps = PumpSet(self._journal_calls.wait, links, on_located, open_lane)
        self._contents = ContentCare(settings, journal, self._journal_calls.run)
        self._delivery = RunDelivery(
            self._pumps, self._registry, self._journal_calls.run, lambda: journal.epoch,
            self._contents.store.directory,
        )  # fmt: skip
        self._admission = self._make_admission(links)

    def _make_admission(self, links: ScriptLinks) -> RankAdmission:
        settings, registry = self._settings, self._registry
        if settings.upstream is not None:
            # With it comes the client's package, which is a tenth of what a daemon's start imports.
            from tracker_daemon.upstream.node_admission import NodeAdmission  # noqa: PLC0415

            self._forwarding = NodeAdmission(
                settings, self._journal, registry, self._recorder, self._pumps, self._delivery,
                self._contents.store.directory, self._recall,
            )  # fmt: skip
            return self._forwarding
        script_backends = ScriptBackends(links, self._pumps, registry, settings.partial_after_s)
        return RootAdmission(
            settings, registry, self._recorder, self._pumps, self._delivery, script_backends,
            frozenset(known_backends()), self._recall,
        )  # fmt: skip

    def _open_lane(self, run: RunDescription) -> RootLane:
        return self._forwarding.open_lane(run)

    # ---- life ------------------------------------------------------------------------------------

    async def run(self, on_ready: Callable[[EndpointInfo], None] | None) -> int:
        """Start, serve until told to stop, drain; the exit status."""
        self._loop = asyncio.get_running_loop()
        self._stop_asked = asyncio.Event()
        self._room = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._take_signal, number)
        server = self._server()
        self._restore()
        care = asyncio.create_task(self._care())
        care.add_done_callback(self._care_ended)
        informing = asyncio.create_task(
            self._service_manager.keep_informed(
                self._journal_calls.probe, lambda: standing(self._registry, self._pumps)
            )
        )
        try:
            await server.start()
            info = self._announcement.publish(self._bound, self._token)
            self._service_manager.ready()
            log.info("ready", endpoint=info.endpoint, state_dir=str(self._journal.directory), pid=os.getpid())
            if on_ready is not None:
                on_ready(info)
            await self._stop_asked.wait()
        except BaseException:  # whatever it was: nothing was served, so nothing is worth a long drain
            self._drain_timeout_s = 0.0
            raise
        finally:
            self._service_manager.stopping()
            await self._drain(server, care)
            informing.cancel()
        return 1 if self._failure is not None else 0

    def _take_signal(self, number: signal.Signals) -> None:
        """The first asks to drain, a Ctrl-C then to leave at once; the journal keeps the rest.

        A further SIGTERM says nothing new: batch systems send it to all processes, wrappers to their own.
        """
        if not self._stop_asked.is_set():
            self._shutdown_grace.signalled(number)
            self._pumps.watch_closely()
        elif number == signal.SIGINT:
            self._drain_timeout_s = 0.0
            self._shutdown_grace.cut_short()
        self._stop_asked.set()

    def _restore(self) -> None:
        """Take up what the journal holds: running runs, and ended ones that are not all delivered."""
        for row in self._journal.runs():
            self._take_up(row, self._journal.streams(row.id), self._journal.backlog(row.id))
        runs = list(self._registry.runs.values())
        self._recorder.start(run.live for run in runs if run.running)
        for run in runs:
            self._delivery.restored(run)

    def _take_up(self, row: RunRow, streams: list[StreamRow], backlog: Backlog) -> Run:
        run = self._registry.restore(row, streams)
        view = run.live.view
        run.live.view = replace(view, last_entry=backlog.entries, last_files=backlog.last_files)
        self._admission.restored(run, backlog)
        return run

    def _server(self) -> grpc.aio.Server:
        server = grpc.aio.server(
            interceptors=[TokenCheck(self._token)],
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=limits.STREAMS_MAX + 64,
        )
        server.add_generic_rpc_handlers((TrackerService(self, self._contents.uploads).handlers(),))
        self._bound = bind_all(server, self._settings, self._journal.directory)
        return server

    # ---- the end ---------------------------------------------------------------------------------

    async def _drain(self, server: grpc.aio.Server, care: asyncio.Task[None]) -> None:
        self._draining = True
        try:
            command_over = LaunchOutcome.is_left(self._journal.directory, self._launch_id)
            # Who is served still is told of its delivery, and what it says goes on to the daemon above.
            await self._shutdown_grace.wait(command_over=command_over)
            care.cancel()
            abandoned = self._registry.abandoned()
            if self._failure is None:
                self._admission.end_outstayed(self._shutdown_grace.outstayed())
            await server.stop(_SERVER_GRACE_S if self._failure is None else 0)
            if self._failure is None:
                self._endings.end_launched(self._journal.directory, self._job_status, self._launch_id)
                await self._journal_calls.probe()
                self._admission.end_deserted(abandoned)
                await self._journal_calls.probe()
                await self._deliver_and_leave()
        except JournalError as error:
            log.warning("the journal failed while draining", reason=str(error))
        except OSError as error:
            log.warning("the last status could not be written", reason=str(error))
        finally:
            care.cancel()
            await self._admission.close()
            await asyncio.to_thread(self._pumps.stop, _PUMPS_STOP_S)
            await asyncio.to_thread(self._recorder.stop)
            self._announcement.withdraw()
            log.info("stopped")

    async def _deliver_and_leave(self) -> None:
        await self._delivery.open_all()
        left_s = self._shutdown_grace.left_s()
        if not await deliver_rest(self._pumps, lambda: min(self._drain_timeout_s, left_s), self._leave):
            log.warning("not everything is delivered; the journal keeps the rest for the next start")
        await self._leave()

    async def _leave(self) -> None:
        write_last(self._journal.directory, await self._document())

    # ---- what the server asks (DaemonCalls) ------------------------------------------------------------

    async def admit(self, hello: pb.Hello) -> tuple[Session, pb.DaemonMessage]:
        """Let a client in, or raise what the server answers instead."""
        return await self._admission.admit(hello)

    async def admit_rank(self, request: pb.AdmitRequest) -> pb.AdmitReply:
        """Decide about a rank that has come to a node's daemon, or raise what the server answers instead."""
        return await self._admission.admit_rank(request)

    async def _recall(self, hello: pb.Hello) -> None:
        """Take up again a run that ended long ago, when a Hello means it."""
        row_id = self._registry.forgotten(hello)
        if row_id is None:
            return

        def read(journal: Journal) -> tuple[RunRow, list[StreamRow], Backlog]:
            row = next(row for row in journal.runs() if row.id == row_id)
            return row, journal.streams(row.id), journal.backlog(row.id)

        found = await self._journal_calls.run(read)
        if self._registry.forgotten(hello) is not None:  # nobody else recalled it meanwhile
            self._take_up(*found)

    async def room(self) -> None:
        """Wait while too much is uncommitted."""
        while self._recorder.pending_bytes > limits.UNCOMMITTED_BYTES_MAX:
            self._room.clear()
            await self._room.wait()

    def left(self, session: Session) -> None:
        """A connection has ended; the rank may come back."""
        self._admission.left(session)
        self._shutdown_grace.someone_left()

    async def status(self) -> str:
        """The status document, as JSON."""
        return msgspec.json.encode(await self._document()).decode()

    def stop(self, timeout_s: float | None, exit_status: int | None) -> int:
        """Begin to drain; with an exit status the job is over, and its runs end by it."""
        if timeout_s is not None:
            self._drain_timeout_s = timeout_s
        self._job_status = exit_status
        self._stop_asked.set()
        return os.getpid()

    async def _document(self) -> StatusDocument:
        summary_of = self._recorder.summary_of
        facts = await self._journal_calls.run(lambda journal: read_facts(journal, self._registry, summary_of))
        daemon = DaemonStatus(
            version=VERSION,
            pid=os.getpid(),
            host=socket.gethostname(),
            uptime_s=round(time.monotonic() - self._started_s, 3),
            state_dir=str(self._journal.directory),
            endpoints=self._bound.endpoints,
            journal_bytes=facts.journal_bytes,
            epoch=facts.epoch,
            draining=self._draining,
            launch_id=self._launch_id,
            contents=self._contents.status(),
        )
        return status_document(daemon, facts, self._registry, self._pumps)

    # ---- the journal's thread and this one -------------------------------------------------------

    def _on_tick(self, runs: list[LiveRun], submissions: list[Submission]) -> None:
        self._contents.journalled(submissions)
        # On the recorder's thread; the loop may be closed already when the last commits come.
        if not self._loop.is_closed():
            streams = {submission.stream for submission in submissions if submission.stream}
            self._loop.call_soon_threadsafe(self._ticked, runs, streams)

    def _ticked(self, runs: list[LiveRun], streams: set[bytes]) -> None:
        for stream_id in streams:
            stream = self._registry.streams.get(stream_id)
            if stream is not None and isinstance(stream.connection, Session):
                stream.connection.wake()
        for run in runs:
            self._admission.ticked(run)
        self._room.set()

    def _on_failure(self, error: BaseException) -> None:
        # On the recorder's thread.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._failed, error)

    def _failed(self, error: BaseException) -> None:
        self._failure = error
        log.error("the daemon cannot go on; nothing more is acknowledged", exc_info=error)
        self._stop_asked.set()

    # ---- care ------------------------------------------------------------------------------------

    async def _care(self) -> None:
        """Look after what time alone changes."""
        while True:
            await asyncio.sleep(_CARE_INTERVAL_S)
            self._admission.poll()
            self._delivery.poll()
            self._end_if_idle()
            self._contents.poll()
            self._delivery.forget_ended(limits.RUNS_ENDED_MAX)

    def _end_if_idle(self) -> None:
        connected, busy = self._registry.connections > 0, not self._delivery.is_settled()
        progress = self._delivery.progress()
        reason = self._idle.reason(time.monotonic(), connected=connected, busy=busy, progress=progress)
        if reason is not None and not self._stop_asked.is_set():
            log.info("ending by itself", reason=reason)
            self._admission.end_idle()
            self._stop_asked.set()

    def _care_ended(self, care: asyncio.Task[None]) -> None:
        """Without it ranks would be lost unseen: better to end, and have it seen."""
        error = None if care.cancelled() else care.exception()
        if error is not None and self._failure is None:
            self._failed(error)


__all__ = ["Daemon", "StateDirectoryError", "serve"]
