"""The daemon's composition root: which parts there are, and in what order they start and stop.

Start: the journal (and with it the lock) → the recorder, which replays → the pumps → the server →
the endpoint file. Stop: the server → the recorder's last commits → the pumps, as long as the drain
may take → the last status → the journal.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import grpc.aio
import msgspec
import structlog

from tracker_daemon.aggregation.rules import Rules
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.registry import known as known_backends
from tracker_daemon.delivery.fleet import Fleet
from tracker_daemon.endpoint import ENDPOINT_FILE_NAME, EndpointInfo
from tracker_daemon.errors import JournalError, SettingsError, StateDirectoryError
from tracker_daemon.ingest import events
from tracker_daemon.ingest.live_run import LiveRun
from tracker_daemon.ingest.recorder import Recorder, RecorderSettings, Submission
from tracker_daemon.ingest.registry import Registry, Run, RunOptions
from tracker_daemon.ingest.server import SERVER_OPTIONS, TokenCheck, TrackerService
from tracker_daemon.ingest.session import Session
from tracker_daemon.journal.event import EventKind
from tracker_daemon.journal.rows import Backlog
from tracker_daemon.journal.store import Journal
from tracker_daemon.launch_outcome import LaunchOutcome
from tracker_daemon.listening import unix_path
from tracker_daemon.selection import RankSet, ReporterRules
from tracker_daemon.settings import Settings
from tracker_daemon.status_document import LAST_STATUS_FILE, DaemonStatus, StatusDocument
from tracker_daemon.status_report import read_facts, status_document
from tracker_daemon.version import VERSION
from tracker_protocol import PROTOCOL_VERSION, limits
from tracker_protocol.v1 import tracker_pb2 as pb

T = TypeVar("T")
log = structlog.get_logger(__name__)
_NS = 1_000_000_000
_CARE_INTERVAL_S = 0.2
_SERVER_GRACE_S = 0.5
_PUMPS_STOP_S = 5.0
_DRAIN_SLICE_S = 0.5
_RANKS_PER_FLUSH_SECOND = 1_000


def serve(settings: Settings, *, on_ready: Callable[[EndpointInfo], None] | None = None) -> int:
    """Run a daemon until SIGTERM or SIGINT, or a Stop call; return its exit status.

    Raises:
        StateDirectoryError: the state directory is held by another daemon or cannot be used.
        SettingsError: an address cannot be listened at.
        JournalError: the journal cannot be opened.
    """
    directory = settings.state_directory
    journal = Journal.open(directory, history_bytes=settings.history_bytes)
    try:
        return asyncio.run(Daemon(settings, journal).run(on_ready))
    finally:
        journal.close()


class Daemon:
    """One running daemon. Everything here is on the event loop unless it says otherwise."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self._settings = settings
        self._journal = journal
        self._started_s = time.monotonic()
        self._token = journal.token
        self._endpoints: tuple[str, ...] = ()
        self._draining = False
        self._drain_timeout_s = settings.drain_timeout_s
        self._failure: BaseException | None = None
        self._registry = Registry(_default_options(settings), _rules(settings))
        self._sessions: set[Session] = set()
        self._recorder = Recorder(journal, _recorder_settings(settings), self._on_tick, self._on_failure)
        self._fleet = Fleet(self._on_journal)
        self._known_backends = frozenset(known_backends())
        self._opening: dict[int, asyncio.Future[None]] = {}

    # ---- life ------------------------------------------------------------------------------------

    async def run(self, on_ready: Callable[[EndpointInfo], None] | None) -> int:
        """Start, serve until told to stop, drain; the exit status."""
        self._loop = asyncio.get_running_loop()
        self._stop_asked = asyncio.Event()
        self._room = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._take_signal)
        self._restore()
        server = self._server()
        await server.start()
        info = self._announce()
        log.info("ready", endpoint=info.endpoint, state_dir=str(self._journal.directory), pid=os.getpid())
        if on_ready is not None:
            on_ready(info)
        care = asyncio.create_task(self._care())
        await self._stop_asked.wait()
        care.cancel()
        await self._drain(server)
        return 1 if self._failure is not None else 0

    def _take_signal(self) -> None:
        """The first asks to drain, a second to leave at once; the journal keeps the rest."""
        if self._stop_asked.is_set():
            self._drain_timeout_s = 0.0
        self._stop_asked.set()

    def _restore(self) -> None:
        """Take up what the journal holds: running runs, and ended ones that are not all delivered."""
        running: list[LiveRun] = []
        for row in self._journal.runs():
            run = self._registry.restore(row, self._journal.streams(row.id))
            if run.running:
                running.append(run.live)
            backlog = self._journal.backlog(row.id)
            run.live.view = replace(run.live.view, last_entry=backlog.entries)
            self._open_backends(run, backlog)
        self._recorder.start(running)

    def _describe(self, run: Run, backend: str) -> RunDescription:
        row, options = run.row, run.options
        return RunDescription(
            row.run_id,
            row.project,
            row.name,
            Path(options.outdir),
            self._journal.epoch,
            run.attempt,
            options.backend_options.get(backend, {}),
            options.environment,
        )

    def _server(self) -> grpc.aio.Server:
        server = grpc.aio.server(
            interceptors=[TokenCheck(self._token)],
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=limits.STREAMS_MAX + 64,
        )
        server.add_generic_rpc_handlers((TrackerService(self).handlers(),))
        self._endpoints = tuple(
            endpoint for address in self._settings.listen for endpoint in _bind(server, address)
        )
        return server

    def _announce(self) -> EndpointInfo:
        info = EndpointInfo(
            endpoint=self._endpoints[0],
            endpoints=self._endpoints,
            token=self._token,
            tls_root_pem=None,
            pid=os.getpid(),
            host=socket.gethostname(),
            protocol_version=PROTOCOL_VERSION,
        )
        for path in self._endpoint_files():
            info.write_atomically(path)
        return info

    def _endpoint_files(self) -> list[Path]:
        own = self._journal.directory / ENDPOINT_FILE_NAME
        given = self._settings.endpoint_file
        return [own] if given is None or given == own else [own, given]

    # ---- the end ---------------------------------------------------------------------------------

    async def _drain(self, server: grpc.aio.Server) -> None:
        self._draining = True
        if self._failure is not None:
            await server.stop(0)
            await asyncio.to_thread(self._fleet.stop, _PUMPS_STOP_S)
            return
        await server.stop(_SERVER_GRACE_S)
        try:
            await self._end_launched_runs()
            if not await self._deliver_rest():
                log.warning("not everything is delivered; the journal keeps the rest for the next start")
            document = await self._document()
            await asyncio.to_thread(self._fleet.stop, _PUMPS_STOP_S)
            self._leave(document)
        except JournalError as error:
            log.warning("the journal failed while draining", reason=str(error))
        await asyncio.to_thread(self._recorder.stop)
        for path in self._endpoint_files():
            path.unlink(missing_ok=True)
        log.info("stopped")

    async def _deliver_rest(self) -> bool:
        begun = time.monotonic()
        while not await asyncio.to_thread(self._fleet.drain, _DRAIN_SLICE_S):
            if time.monotonic() - begun >= self._drain_timeout_s:
                return False
        return True

    async def _end_launched_runs(self) -> None:
        """The command of a launch has ended: its exit status stands for ranks that did not finish."""
        outcome = LaunchOutcome.read(self._journal.directory)
        for run in list(self._registry.runs.values()):
            if outcome is not None and run.running and outcome.launch_id in run.row.launch_key:
                payload = events.encode(outcome.exit_status)
                self._recorder.submit(Submission(run.live, EventKind.ENDED, payload=payload))
        await self._on_journal_async(lambda _: None)
        for run in self._registry.runs.values():
            if run.live.row_id:
                self._fleet.notify(run.live.row_id)

    def _leave(self, document: StatusDocument) -> None:
        path = self._journal.directory / LAST_STATUS_FILE
        temporary = path.with_suffix(".new")
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
        temporary.replace(path)

    # ---- what the server asks (Calls) ------------------------------------------------------------

    async def admit(self, hello: pb.Hello) -> tuple[Session, pb.DaemonMessage]:
        """Let a client in, or raise what the server answers instead."""
        stream, new_run, new_stream = self._registry.admit(hello)
        run = stream.run
        session = Session(stream, self._recorder, self._loop, self._flush_interval_ms)
        stream.connection = session
        names = backend_names(run.options.backends)
        usable = [name for name in names if name in self._known_backends]
        welcome = await session.welcome(
            hello, new_run=new_run, new_stream=new_stream, backends=usable, version=VERSION
        )
        self._sessions.add(session)
        if new_run:
            row_id = run.live.row_id
            backlog = await self._on_journal_async(lambda journal: journal.backlog(row_id))
            for cursor in backlog.cursors:
                self._fleet.open(row_id, self._describe(run, cursor.backend), cursor)
            self._warn_of_unknown(session, [name for name in names if name not in self._known_backends])
        if new_stream:
            log.info("a rank joined", run_id=run.run_id, rank=stream.rank, host=stream.host, pid=stream.pid)
        return session, welcome

    def _open_backends(self, run: Run, backlog: Backlog) -> None:
        """Open those that have something to deliver.

        Not the others: what a restarted daemon's journal may have lost shows only when clients come
        back, and a backend opened before would have cut its store to the older state.
        """
        for cursor in backlog.cursors:
            if cursor.position < backlog.entries:
                self._fleet.open(run.live.row_id, self._describe(run, cursor.backend), cursor)

    def _warn_of_unknown(self, session: Session, names: list[str]) -> None:
        for name in names:
            text = (
                f"there is no backend {name!r}; this daemon has {', '.join(sorted(self._known_backends))}. "
                "The others go on"
            )
            log.warning(text, run_id=session.stream.run.run_id)
            session.send(pb.DaemonMessage(notice=pb.Notice(text=text)))

    async def room(self) -> None:
        """Wait while too much is uncommitted."""
        while self._recorder.pending_bytes > limits.UNCOMMITTED_BYTES_MAX:
            self._room.clear()
            await self._room.wait()

    def left(self, session: Session) -> None:
        """A connection has ended; the rank may come back."""
        self._sessions.discard(session)
        session.stream.last_seen_s = time.monotonic()
        if session.stream.connection is session:
            session.stream.connection = None

    async def status(self) -> str:
        """The status document, as JSON."""
        return msgspec.json.encode(await self._document()).decode()

    def stop(self, timeout_s: float | None) -> int:
        """Begin to drain."""
        if timeout_s is not None:
            self._drain_timeout_s = timeout_s
        self._stop_asked.set()
        return os.getpid()

    async def _document(self) -> StatusDocument:
        facts = await self._on_journal_async(lambda journal: read_facts(journal, self._registry))
        daemon = DaemonStatus(
            version=VERSION,
            pid=os.getpid(),
            host=socket.gethostname(),
            uptime_s=round(time.monotonic() - self._started_s, 3),
            state_dir=str(self._journal.directory),
            endpoints=self._endpoints,
            journal_bytes=facts.journal_bytes,
            epoch=facts.epoch,
            draining=self._draining,
        )
        return status_document(daemon, facts, self._registry, self._fleet)

    def _flush_interval_ms(self) -> int:
        given = self._settings.flush_interval_s
        if given is None:
            # Ten thousand ranks then cost the daemon about what a hundred do.
            grown = len(self._sessions) / _RANKS_PER_FLUSH_SECOND
            given = min(max(grown, limits.FLUSH_INTERVAL_MIN_S), limits.FLUSH_INTERVAL_MAX_S)
        return int(given * 1000)

    # ---- the journal's thread and this one -------------------------------------------------------

    def _on_journal(self, work: Callable[[Journal], T]) -> T:
        """From any thread but the recorder's: run ``work`` there, and wait until it is committed."""
        return self._recorder.call(work).result()

    async def _on_journal_async(self, work: Callable[[Journal], T]) -> T:
        return await asyncio.wrap_future(self._recorder.call(work))

    def _on_tick(self, runs: list[LiveRun], submissions: list[Submission]) -> None:
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
            if run.view.last_entry and not self._fleet.notify(run.row_id) and run.row_id not in self._opening:
                self._opening[run.row_id] = asyncio.ensure_future(self._reopen(run))
        self._room.set()

    async def _reopen(self, live: LiveRun) -> None:
        """A run whose pumps have ended, or were not needed yet, has something to deliver."""
        backlog = await self._on_journal_async(lambda journal: journal.backlog(live.row_id))
        del self._opening[live.row_id]
        self._open_backends(self._registry.runs[live.run_id], backlog)

    def _on_failure(self, error: BaseException) -> None:
        # On the recorder's thread.
        self._loop.call_soon_threadsafe(self._failed, error)

    def _failed(self, error: BaseException) -> None:
        self._failure = error
        log.error("the journal cannot go on; nothing more is acknowledged", exc_info=error)
        self._stop_asked.set()

    # ---- care ------------------------------------------------------------------------------------

    async def _care(self) -> None:
        """Look after ranks that are silent, and after clients that wait for delivery."""
        while True:
            await asyncio.sleep(_CARE_INTERVAL_S)
            self._report_gone(self._registry.silent_ranks(self._settings.lost_timeout_s), EventKind.LOST)
            self._report_gone(self._registry.absent_ranks(self._settings.start_timeout_s), EventKind.ABSENT)
            for session in self._sessions:
                if session.wants_delivery and self._is_delivered(session.stream.run):
                    session.wants_delivery = False
                    session.send(pb.DaemonMessage(delivered=pb.Delivered()))

    def _report_gone(self, gone: dict[Run, list[int]], kind: EventKind) -> None:
        for run, ranks in gone.items():
            log.warning("ranks are gone", run_id=run.run_id, how=kind.name.lower(), ranks=ranks[:20])
            self._recorder.submit(Submission(run.live, kind, payload=events.encode(ranks)))

    def _is_delivered(self, run: Run) -> bool:
        view = run.live.view
        settled = view.open_rows == 0 or view.status != "RUNNING"
        healths = self._fleet.health(run.live.row_id)
        return settled and all(health.delivered_entry >= view.last_entry for health in healths.values())


# ---- from settings -------------------------------------------------------------------------------


def backend_names(text: str) -> list[str]:
    """Backends named with commas, each once, in order; none for "none"."""
    names = dict.fromkeys(name.strip().lower() for name in text.split(","))
    return [name for name in names if name and name != "none"]


def _default_options(settings: Settings) -> RunOptions:
    return RunOptions(
        ",".join(settings.backend_names) or "none",
        str(settings.output_directory),
        settings.primary_rank,
        settings.record_ranks,
    )


def _rules(settings: Settings) -> Rules:
    return Rules(
        primary_rank=settings.primary_rank,
        recorded_ranks=RankSet.parse(settings.record_ranks),
        reporters=ReporterRules.parse(settings.reporters),
        learn_wait_ns=int(settings.learn_wait_s * _NS),
        partial_after_ns=int(settings.partial_after_s * _NS),
        lagging_after_cells=settings.lagging_after_cells,
    )


def _recorder_settings(settings: Settings) -> RecorderSettings:
    return RecorderSettings(
        settings.commit_window_s,
        limits.COMMIT_BYTES_MAX,
        settings.snapshot_every_s,
        settings.snapshot_every_bytes,
        settings.open_cells_bytes,
    )


def _bind(server: grpc.aio.Server, address: str) -> list[str]:
    """Listen at ``address``; the endpoints that clients can use for it."""
    path = unix_path(address)
    if path is not None:
        # A second bind would take the socket over silently; the state directory's lock came first.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise SettingsError(f"cannot listen at {address}: {error}; choose another with --listen") from error
    if path is not None:
        return [address]
    host = address.rpartition(":")[0]
    if host in ("0.0.0.0", "[::]"):  # noqa: S104 - only compared
        return [f"{name}:{port}" for name in (socket.gethostname(), "127.0.0.1")]
    return [f"{host}:{port}"]


__all__ = ["Daemon", "StateDirectoryError", "serve"]
