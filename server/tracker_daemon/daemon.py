"""The composition root: builds a daemon's parts in order, starts them, and ends them.

Start: the journal with the state directory's lock → the addresses → the journal's runs → the recorder →
the pumps → the server → the endpoint files. The end is in :mod:`tracker_daemon.service.shutdown`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence

import grpc.aio
import structlog

from tracker_daemon.admission.parts import CommonParts, RoleParts
from tracker_daemon.admission.root_parts import build_root_parts
from tracker_daemon.contents.care import ContentCare
from tracker_daemon.contents.store import ContentStore
from tracker_daemon.delivery.lane import OnLocated
from tracker_daemon.delivery.locations import log_location
from tracker_daemon.endpoints.announcement import Announcement
from tracker_daemon.endpoints.binding import bind_all
from tracker_daemon.endpoints.endpoint_file import EndpointInfo
from tracker_daemon.files.layout import Layout
from tracker_daemon.ingest.server import SERVER_OPTIONS, TokenCheck, TrackerService
from tracker_daemon.ingest.uploads import UploadService
from tracker_daemon.journal.store import Journal
from tracker_daemon.lifecycle.idle import IdleWatch
from tracker_daemon.lifecycle.service_manager import ServiceManager
from tracker_daemon.lifecycle.shutdown_grace import ShutdownGrace
from tracker_daemon.recording.journal_calls import JournalCalls
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.recording.recorder import Recorder, RecorderSettings
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run_endings import RunEndings
from tracker_daemon.runs.stored_runs import StoredRuns
from tracker_daemon.service.backpressure import Backpressure
from tracker_daemon.service.calls import Calls
from tracker_daemon.service.care import Care
from tracker_daemon.service.reporter import StatusReporter
from tracker_daemon.service.rest import Rest
from tracker_daemon.service.shutdown import Shutdown
from tracker_daemon.service.stop_request import StopRequest
from tracker_daemon.service.ticks import Ticks
from tracker_daemon.settings.definitions import Settings
from tracker_daemon.status.document import write_last
from tracker_daemon.status.report import summary_line
from tracker_protocol import limits

log = structlog.get_logger(__name__)


def serve(
    settings: Settings,
    *,
    on_ready: Callable[[EndpointInfo], None] | None = None,
    launch_id: str = "",
    on_located: OnLocated = log_location,
    abandoned_timeout_s: float | None = None,
    layout: Layout = Layout.PROJECT,
    serves_launch: Callable[[str], bool] | None = None,
    print_line: Callable[[str], None] | None = None,
) -> int:
    """Run a daemon until SIGTERM or SIGINT, or a Stop call; return its exit status.

    Args:
        settings: the daemon's settings.
        on_ready: called once clients can connect.
        launch_id: the launch that started the daemon; "" for a daemon that serves any.
        on_located: called when a backend knows where a run can be found.
        abandoned_timeout_s: the daemon ends if it has been idle for so long since what started its ranks
            ended; None: it does not.
        layout: the place of a run's directory within the output directory, unless its script names one.
        serves_launch: returns True for the name of a launch's endpoint file if the daemon serves that launch;
            None: it serves any.
        print_line: prints a line for the user who started the daemon; None if no user did.

    Raises:
        StateDirectoryError: the state directory is held by another daemon or cannot be used.
        SettingsError: the daemon cannot listen at an address.
        JournalError: the journal cannot be opened.
    """
    journal = Journal.open(settings.state_directory, history_bytes=settings.history_bytes)

    async def run() -> int:
        loop = asyncio.get_running_loop()
        daemon = Daemon(
            settings, journal, loop, on_located, launch_id, abandoned_timeout_s, layout, serves_launch,
            print_line,
        )  # fmt: skip
        return await daemon.run(on_ready)

    try:
        return asyncio.run(run())
    finally:
        journal.close()


class Daemon:
    """One daemon: its parts, built in the order in which they need one another. On the event loop ``loop``.

    Raises:
        SettingsError: the daemon cannot listen at an address, or ``upstream`` names no endpoint.
    """

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        loop: asyncio.AbstractEventLoop,
        on_located: OnLocated,
        launch_id: str,
        abandoned_timeout_s: float | None,
        layout: Layout,
        serves_launch: Callable[[str], bool] | None,
        print_line: Callable[[str], None] | None,
    ) -> None:
        self._loop = loop
        self._service_manager = ServiceManager.of(os.environ)
        self._stop = StopRequest(settings.drain_timeout_s)
        contents = ContentStore.from_settings(settings, journal.directory)
        ticks = Ticks(loop, contents, self._stop)
        self._common = _build_common_parts(settings, journal, ticks, contents, launch_id, layout)
        self._role = _build_role_parts(self._common, on_located, print_line, loop)
        self._backpressure = Backpressure(self._common.recorder)
        ticks.subscribe(self._on_commit)
        forwards = settings.upstream is not None
        self._grace = ShutdownGrace(self._common.registry, settings.grace_s, forwards=forwards)
        idle = IdleWatch(
            settings.idle_timeout_s, settings.orphan_timeout_s, time.monotonic(), abandoned_timeout_s
        )
        content_care = ContentCare(contents, self._common.journal_calls.run)
        self._token = settings.token.get_secret_value() if settings.token else journal.token
        self._server = grpc.aio.server(
            interceptors=[TokenCheck(self._token)],
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=limits.STREAMS_MAX + 64,
        )
        self._bound = bind_all(self._server, settings, journal.directory)
        reporter = StatusReporter(
            self._common, self._role.pumps, contents, self._stop, self._bound.endpoints, launch_id
        )
        rest = self._build_rest(content_care, reporter) if abandoned_timeout_s is not None else None
        self._care = Care(self._common, self._role, content_care, idle, self._stop, rest)
        calls = Calls(self._role.admission, self._backpressure, self._grace, reporter, self._stop)
        service = TrackerService(calls, UploadService(contents), serves_launch)
        self._server.add_generic_rpc_handlers((service.handlers(),))
        self._announcement = Announcement(journal.directory, settings.endpoint_file)
        self._shutdown = Shutdown(
            self._common, self._role, self._grace, reporter, self._announcement, self._stop, launch_id,
            rest,
        )  # fmt: skip

    def _build_rest(self, contents: ContentCare, reporter: StatusReporter) -> Rest:
        directory = self._common.journal.directory

        async def write_status() -> None:
            write_last(directory, await reporter.document())

        rest = Rest(self._role.delivery, contents, directory, write_status)
        if self._role.answers is not None:
            self._role.answers.on_files_delivered = rest.begin
        return rest

    def _on_commit(self, runs: Sequence[LiveRun], streams: frozenset[bytes]) -> None:
        self._common.registry.wake(streams)
        for run in runs:
            self._role.admission.on_commit(run)
        self._backpressure.on_commit()

    async def run(self, on_ready: Callable[[EndpointInfo], None] | None) -> int:
        """Start, serve until asked to stop, and drain; return the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._shutdown.take_signal, number)
        self._restore_runs()
        care = self._care.start()
        informing = asyncio.create_task(
            self._service_manager.keep_informed(
                self._common.journal_calls.probe,
                lambda: summary_line(self._common.registry, self._role.pumps),
            )
        )
        try:
            await self._start_serving(on_ready)
            await self._stop.wait()
        except BaseException:  # after any error nothing was served, so a long drain has no use
            self._stop.skip_drain()
            raise
        finally:
            self._service_manager.stopping()
            await self._shutdown.run(self._server, care)
            informing.cancel()
        return 1 if self._stop.failure is not None else 0

    def _restore_runs(self) -> None:
        """Restore the runs of the journal, start the recorder, and deliver what was left."""
        restored = self._common.stored_runs.restore_all(self._common.journal)
        for one in restored:
            self._role.admission.add_restored(one)
        self._common.recorder.start(one.run.live for one in restored if one.run.running)
        for one in restored:
            self._role.delivery.resume(one.run)

    async def _start_serving(self, on_ready: Callable[[EndpointInfo], None] | None) -> None:
        await self._server.start()
        info = self._announcement.publish(self._bound, self._token)
        self._service_manager.ready()
        directory = str(self._common.journal.directory)
        log.info("ready", endpoint=info.endpoint, state_dir=directory, pid=os.getpid())
        if on_ready is not None:
            on_ready(info)


def _build_common_parts(
    settings: Settings,
    journal: Journal,
    ticks: Ticks,
    contents: ContentStore,
    launch_id: str,
    layout: Layout,
) -> CommonParts:
    recorder = Recorder(
        journal, RecorderSettings.from_settings(settings), ticks.report_tick, ticks.report_failure
    )
    journal_calls = JournalCalls(recorder)
    registry = Registry.from_settings(settings, layout)
    stored_runs = StoredRuns(registry, journal_calls.run)
    endings = RunEndings(registry, recorder, has_command=bool(launch_id))
    return CommonParts(
        settings, journal, registry, recorder, journal_calls, stored_runs, endings, contents.directory
    )


def _build_role_parts(
    common: CommonParts,
    on_located: OnLocated,
    print_line: Callable[[str], None] | None,
    loop: asyncio.AbstractEventLoop,
) -> RoleParts:
    if common.settings.upstream is None:
        return build_root_parts(common, on_located, print_line)
    # Imports the client's package, which is a tenth of the time that a daemon needs to start.
    from tracker_daemon.upstream.node_parts import build_node_parts  # noqa: PLC0415

    return build_node_parts(common, on_located, loop)
