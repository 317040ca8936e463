"""The admission of a root: ranks connect to it directly, or through the daemons of their nodes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping

import msgspec
import structlog

from tracker_daemon.admission.backend_news import send_backend_news
from tracker_daemon.admission.delivery_answers import DeliveryAnswers
from tracker_daemon.admission.rank_admission import flush_interval_ms
from tracker_daemon.admission.rank_warnings import RankWarnings
from tracker_daemon.admission.script_backends import ScriptBackends, warn_of_unknown
from tracker_daemon.admission.user_notices import UserNotices
from tracker_daemon.backends.base import RunStatus
from tracker_daemon.backends.registry import files_lanes
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.delivery.run_delivery import RunDelivery
from tracker_daemon.errors import ProtocolError
from tracker_daemon.ingest.nodes import NodeLink, Nodes, NodeSession, RelayedSession
from tracker_daemon.ingest.session import Session, SessionContext
from tracker_daemon.journal.event import EventKind
from tracker_daemon.recording import events
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.recording.recorder import Recorder, Submission
from tracker_daemon.runs.claims import Claims
from tracker_daemon.runs.meeting import Meeting
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Admission, Run, Stream
from tracker_daemon.runs.run_endings import RunEndings
from tracker_daemon.runs.stored_runs import RestoredRun, StoredRuns
from tracker_daemon.settings.definitions import Settings
from tracker_daemon.version import VERSION
from tracker_daemon.wire.hello import check_hello, check_node_id
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

log = structlog.get_logger(__name__)
_END_CHECK_INTERVAL_S = 0.05


class RootAdmission:
    """The :class:`tracker_daemon.admission.rank_admission.RankAdmission` of a root. On the event loop."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        recorder: Recorder,
        pumps: PumpSet,
        delivery: RunDelivery,
        script_backends: ScriptBackends,
        known_backends: frozenset[str],
        stored_runs: StoredRuns,
        endings: RunEndings,
        answers: DeliveryAnswers,
        notices: UserNotices,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._recorder = recorder
        self._pumps = pumps
        self._delivery = delivery
        self._script_backends = script_backends
        self._known_backends = known_backends
        self._stored_runs = stored_runs
        claims = Claims(registry, settings.challenge_timeout_s)
        self._meeting = Meeting(registry, claims, settings.primary_wait_s)
        self._endings = endings
        self._answers = answers
        self._nodes = Nodes(self._connect_rank_of_node, self.remove)
        self._sessions: set[Session] = set()
        self._warnings = RankWarnings()
        self._notices = notices
        self._ended_primaries: deque[bytes] = deque(maxlen=limits.RUNS_ENDED_MAX)
        """The streams of primary ranks after whose end the gathered warnings were passed on."""

    # ---- ranks -----------------------------------------------------------------------------------

    async def admit(self, hello: pb.Hello) -> tuple[Session, pb.DaemonMessage]:
        """Admit a rank or a node's daemon; return its session and the Welcome.

        Raises:
            ClientRefused: a living process holds the rank, or a limit is reached.
            PrimaryAwaited: the rank has to wait for its run's primary rank.
            ProtocolError, SettingsError: the Hello is not allowed, or an option cannot be used.
        """
        await self._restore_forgotten(hello)
        if hello.HasField("node"):
            return await self._admit_node(hello)
        admission = await self._decide(hello)
        session = Session(admission, self._session_context())
        self._registry.connect(admission.stream, session)
        try:
            welcome, classes = await self._welcome(session, admission, hello)
        except BaseException:  # cancelled too, if the client has disconnected: free its rank again
            self.remove(session)
            raise
        self._enter(session, classes)
        self._greet(session, admission)
        return session, welcome

    async def _decide(self, hello: pb.Hello) -> Admission:
        """Find or make the stream of a rank, after the waits for its run and for the holder of its rank."""
        check_hello(hello)
        return await self._meeting.admit(hello)

    async def _restore_forgotten(self, hello: pb.Hello) -> None:
        restored = await self._stored_runs.restore_forgotten(hello)
        if restored is not None:
            self.add_restored(restored)

    async def _welcome(
        self, session: Session, admission: Admission, hello: pb.Hello
    ) -> tuple[pb.DaemonMessage, list[str]]:
        """Journal the admission; return the Welcome, and the classes of the script to deliver to."""
        new = self._script_backends.new_backends(admission, hello.script_backends, self._known_backends)
        classes = self._script_backends.classes_of(admission.stream, hello.script_backends)
        cursors: Mapping[str, bytes] = {**new, **files_lanes(new)}
        welcome = await session.welcome(hello, new_backends=cursors, script_backends=classes, version=VERSION)
        if new or admission.describes or admission.reopened:
            await self._delivery.begin(admission.stream.run)
        return welcome, classes

    def _enter(self, session: Session, classes: list[str]) -> None:
        self._sessions.add(session)
        self._notices.send_kept(session)
        self._script_backends.attach(session, classes)
        if directory := session.stream.run.options.directory:
            session.send_directory(directory)

    def _greet(self, session: Session, admission: Admission) -> None:
        stream, run = admission.stream, admission.stream.run
        if admission.warning:
            run.live.warnings.append(admission.warning)
            self._notices.show_new(run.live)
        if admission.new_stream and stream.rank == run.options.primary_rank:
            warn_of_unknown(session, self._known_backends)
            send_backend_news(session, self._pumps)
        if admission.new_stream:
            log.info("a rank joined", run_id=run.run_id, rank=stream.rank, host=stream.host, pid=stream.pid)

    def remove(self, session: Session) -> None:
        """Remove an ended connection; its rank may reconnect."""
        self._sessions.discard(session)
        self._answers.remove(session)
        self._script_backends.detach(session)
        self._registry.disconnect(session.stream, session)
        if isinstance(session, NodeSession):
            session.link.detach(session)

    def _session_context(self) -> SessionContext:
        return SessionContext(
            self._recorder,
            asyncio.get_running_loop(),
            self._flush_interval_ms,
            self._endings.expect_exit_status,
            self._answers.expect,
            self._take_warning,
        )

    def _take_warning(self, stream: Stream, text: str) -> None:
        self._warnings.add(stream.run.run_id, stream.rank, text, time.monotonic())

    def _pass_on_warnings(self) -> None:
        """Show the users the warnings of their runs' ranks that are due."""
        for run_id, text in self._warnings.take_due(time.monotonic()):
            run = self._registry.runs.get(run_id)
            if run is not None:
                self._warn(run, text)
        run_ids = frozenset(self._registry.runs)
        self._warnings.forget(run_ids)
        self._notices.forget(run_ids)

    def _warn(self, run: Run, text: str) -> None:
        """Show a sentence to a run's user, and add it to the run's events."""
        run.live.warnings.append(text)
        self._notices.show_new(run.live)
        notice = events.encode(events.NoticeEvent(text))
        self._recorder.submit(Submission(run.live, EventKind.NOTICE, payload=notice))

    def _flush_interval_ms(self) -> int:
        return flush_interval_ms(self._settings.flush_interval_s, self._connections)

    def _connections(self) -> int:
        relayed = sum(isinstance(session, RelayedSession) for session in self._sessions)
        return len(self._sessions) - relayed + sum(1 for _ in self._nodes.connected())

    # ---- nodes' daemons --------------------------------------------------------------------------

    async def _admit_node(self, hello: pb.Hello) -> tuple[Session, pb.DaemonMessage]:
        admission = self._registry.admit(hello)
        stream = admission.stream
        link = self._nodes.link(hello.node.node_id, stream.run)
        session = NodeSession(admission, self._session_context(), link, files_lane=hello.node.files_lane)
        self._registry.connect(stream, session)
        try:
            welcome = await session.welcome(hello, new_backends={}, script_backends=[], version=VERSION)
        except BaseException:  # cancelled too, if the node has disconnected
            self.remove(session)
            raise
        if not session.files_lane:
            link.attach(session)
        if admission.new_stream:
            log.info("a node's daemon joined", run_id=stream.run.run_id, host=stream.host, pid=stream.pid)
        return session, welcome

    async def admit_rank(self, request: pb.AdmitRequest) -> pb.AdmitReply:
        """Decide about a rank of a node's daemon; raises the errors of :meth:`admit`."""
        check_node_id(request.node_id)
        hello = request.hello
        if hello.HasField("node"):
            raise ProtocolError(
                "a node's daemon connects with a Hello of its own, and is not admitted as a rank"
            )
        await self._restore_forgotten(hello)
        await self._wait_for_end_of_run(hello)
        admission = await self._decide(hello)
        stream = admission.stream
        # Until the node reports the rank as connected, another process must not get the rank.
        stream.reserve(self._settings.challenge_timeout_s)
        session = self._relayed_session(admission, self._nodes.link(request.node_id, stream.run))
        welcome, _ = await self._welcome(session, admission, hello)
        self._greet(session, admission)
        options = msgspec.json.encode(stream.run.options).decode()
        return pb.AdmitReply(welcome=welcome.welcome, options=options)

    async def _wait_for_end_of_run(self, hello: pb.Hello) -> None:
        """Wait, for a bounded time, until a run ends in which the rank of ``hello`` has finished.

        Such a Hello usually begins the next trial of a loop. The ends of the other ranks may still be on
        their way through their nodes' daemons. Those daemons may even hold them back for this rank.
        """
        until_s = time.monotonic() + limits.RUN_END_WAIT_S
        while (run := self._registry.run_finished_by(hello)) is not None:
            if time.monotonic() >= until_s and not run.expects_more_ends():
                return
            await asyncio.sleep(_END_CHECK_INTERVAL_S)

    def _relayed_session(self, admission: Admission, link: NodeLink) -> RelayedSession:
        return RelayedSession(admission, self._session_context(), link)

    def _connect_rank_of_node(self, link: NodeLink, stream: Stream, present: pb.PresentRank) -> None:
        """Connect a rank that its node has reported as connected."""
        session = link.relayed[stream.stream_id] = self._relayed_session(Admission(stream), link)
        if stream.lost:
            again = events.HelloEvent(stream.rank, 0, stream.attempt, ())
            live = stream.run.live
            self._recorder.submit(
                Submission(live, EventKind.HELLO, stream.stream_id, payload=events.encode(again))
            )
        stream.note_return(answers_challenges=present.answers_challenges)
        stream.note_contact()
        self._registry.connect(stream, session, relayed=True)
        self._enter(session, self._script_backends.classes_of(stream, present.script_backends))

    # ---- runs ------------------------------------------------------------------------------------

    def add_restored(self, restored: RestoredRun) -> None:
        """Add a run of the journal."""
        self._script_backends.add_restored(restored.run, restored.backlog.cursors)

    def on_commit(self, live: LiveRun) -> None:
        """Send a run's new warnings, and deliver its new entries."""
        self._hurry_warnings(live)
        self._notices.show_new(live)
        if live.view.status != RunStatus.RUNNING.value:
            self._nodes.send_run_ended(live.run_id)
        self._delivery.deliver_new(live)

    def _hurry_warnings(self, live: LiveRun) -> None:
        """Pass on all gathered warnings of a run once its primary rank has ended."""
        run = self._registry.runs.get(live.run_id)
        primary = run.by_rank.get((run.attempt, run.options.primary_rank)) if run is not None else None
        if primary is not None and primary.finished and primary.stream_id not in self._ended_primaries:
            self._ended_primaries.append(primary.stream_id)
            self._warnings.hurry(live.run_id)
            self._pass_on_warnings()

    def poll(self) -> None:
        """Do the work that is due; called several times a second."""
        self._endings.report_gone(self._settings.lost_timeout_s, self._settings.start_timeout_s)
        self._endings.poll(self._registry.runs.values())
        self._script_backends.poll()
        self._nodes.poll()
        self._pass_on_warnings()
        for session in self._sessions:
            send_backend_news(session, self._pumps)

    def end_killed(self, runs: list[Run]) -> None:
        """End ``runs``: the job and their connected ranks are about to be killed."""
        self._endings.end_killed(runs)

    def end_disconnected(self, runs: list[Run]) -> None:
        """End ``runs``: the daemon is ending, and none of their ranks is connected."""
        self._warnings.hurry_all()
        self._pass_on_warnings()
        self._endings.end_disconnected(runs)

    def end_all(self) -> None:
        """End every run, so that none stays RUNNING for ever."""
        self._endings.report_gone(0.0, 0.0)

    async def close(self) -> None:
        """Do nothing: a root's admission keeps nothing open."""
