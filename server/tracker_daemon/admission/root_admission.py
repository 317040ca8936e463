"""RootAdmission: the front of a daemon that records, to which ranks come and nodes' daemons that forward."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog

from tracker_daemon.admission.backend_news import send_backend_news
from tracker_daemon.admission.primary_notices import pass_on
from tracker_daemon.admission.rank_admission import flush_interval_ms
from tracker_daemon.admission.script_backends import ScriptBackends, warn_of_unknown
from tracker_daemon.backends.registry import files_lanes
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.errors import ProtocolError
from tracker_daemon.ingest.nodes import NodeLink, Nodes, NodeSession, RelayedSession
from tracker_daemon.ingest.session import Session, SessionContext
from tracker_daemon.journal.event import EventKind
from tracker_daemon.journal.rows import Backlog
from tracker_daemon.lifecycle.run_delivery import RunDelivery
from tracker_daemon.lifecycle.run_endings import RunEndings
from tracker_daemon.recording import events
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.recording.recorder import Recorder, Submission
from tracker_daemon.runs.claims import Claims
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Admission, Run, Stream
from tracker_daemon.settings.definitions import Settings
from tracker_daemon.version import VERSION
from tracker_daemon.wire.hello import check_node_id
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

log = structlog.get_logger(__name__)
_HEAR_S = 0.05


class RootAdmission:
    """The :class:`tracker_daemon.admission.rank_admission.RankAdmission` of a daemon that decides by itself.

    ``recall`` takes up again a run that ended long ago, when a Hello means it.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        recorder: Recorder,
        pumps: PumpSet,
        delivery: RunDelivery,
        script_backends: ScriptBackends,
        known_backends: frozenset[str],
        recall: Callable[[pb.Hello], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._recorder = recorder
        self._pumps = pumps
        self._delivery = delivery
        self._script_backends = script_backends
        self._known_backends = known_backends
        self._recall = recall
        self._claims = Claims(registry, settings.challenge_timeout_s)
        self._endings = RunEndings(registry, recorder)
        self._nodes = Nodes(self._came, self.left)
        self._sessions: set[Session] = set()

    # ---- the connected ---------------------------------------------------------------------------

    async def admit(self, hello: pb.Hello) -> tuple[Session, pb.DaemonMessage]:
        """Let a rank or a node's daemon in, or raise what the server answers instead."""
        await self._recall(hello)
        if hello.HasField("node"):
            return await self._admit_node(hello)
        admission = await self._claims.admit(hello)
        session = Session(admission, self._serving())
        self._registry.connect(admission.stream, session)
        try:
            welcome, fed = await self._welcome(session, admission, hello)
        except BaseException:  # cancelled too, when the client has gone: its rank must not stay taken
            self.left(session)
            raise
        self._enter(session, fed)
        self._greet(session, admission)
        return session, welcome

    async def _welcome(
        self, session: Session, admission: Admission, hello: pb.Hello
    ) -> tuple[pb.DaemonMessage, list[str]]:
        """The Welcome, once the admission is journalled, and the script's classes that the session feeds."""
        new = self._script_backends.new_backends(admission, hello.script_backends, self._known_backends)
        fed = self._script_backends.fed_by(admission.stream, hello.script_backends)
        cursors: Mapping[str, bytes] = {**new, **files_lanes(new)}
        welcome = await session.welcome(hello, new_backends=cursors, script_backends=fed, version=VERSION)
        if new or admission.describes:
            await self._delivery.begin(admission.stream.run)
        return welcome, fed

    def _enter(self, session: Session, fed: list[str]) -> None:
        self._sessions.add(session)
        self._script_backends.attach(session, fed)

    def _greet(self, session: Session, admission: Admission) -> None:
        stream, run = admission.stream, admission.stream.run
        if admission.new_stream and stream.rank == run.options.primary_rank:
            warn_of_unknown(session, self._known_backends)
            send_backend_news(session, self._pumps)
        if admission.new_stream:
            log.info("a rank joined", run_id=run.run_id, rank=stream.rank, host=stream.host, pid=stream.pid)

    def left(self, session: Session) -> None:
        """A connection has ended; the rank may come back."""
        self._sessions.discard(session)
        self._script_backends.detach(session)
        self._registry.disconnect(session.stream, session)
        if isinstance(session, NodeSession):
            session.link.detach(session)

    def _serving(self) -> SessionContext:
        return SessionContext(self._recorder, asyncio.get_running_loop(), self._flush_interval_ms)

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
        session = NodeSession(admission, self._serving(), link, files_lane=hello.node.files_lane)
        self._registry.connect(stream, session)
        try:
            welcome = await session.welcome(hello, new_backends={}, script_backends=[], version=VERSION)
        except BaseException:  # as above
            self.left(session)
            raise
        if not session.files_lane:
            link.attach(session)
        if admission.new_stream:
            log.info("a node's daemon joined", run_id=stream.run.run_id, host=stream.host, pid=stream.pid)
        return session, welcome

    async def admit_rank(self, request: pb.AdmitRequest) -> pb.AdmitReply:
        """Decide about a rank that has come to a node's daemon, or raise what the server answers instead."""
        check_node_id(request.node_id)
        hello = request.hello
        if hello.HasField("node"):
            raise ProtocolError("a node's daemon connects by itself, and is not admitted as a rank")
        await self._recall(hello)
        await self._hear_ends(hello)
        admission = await self._claims.admit(hello)
        stream = admission.stream
        # Until the node says that it is there, nobody else gets its rank unasked.
        stream.reserve(self._settings.challenge_timeout_s)
        session = self._relayed(admission, self._nodes.link(request.node_id, stream.run))
        welcome, _ = await self._welcome(session, admission, hello)
        self._greet(session, admission)
        options = msgspec.json.encode(stream.run.options).decode()
        return pb.AdmitReply(welcome=welcome.welcome, options=options)

    async def _hear_ends(self, hello: pb.Hello) -> None:
        """Where a rank has finished and comes again, its run is likely to be over, and this its next trial.

        The other ranks' ends may be on their way through their nodes' daemons, or wait there for this one.
        """
        until_s = time.monotonic() + limits.ENDS_WAIT_S
        while (run := self._registry.run_left(hello)) is not None:
            if time.monotonic() >= until_s and not run.awaits_word():
                return
            await asyncio.sleep(_HEAR_S)

    def _relayed(self, admission: Admission, link: NodeLink) -> RelayedSession:
        return RelayedSession(admission, self._serving(), link)

    def _came(self, link: NodeLink, stream: Stream, present: pb.PresentRank) -> None:
        """A node says that this rank is connected to it."""
        session = link.relayed[stream.stream_id] = self._relayed(Admission(stream), link)
        if stream.lost:
            again = events.HelloEvent(stream.rank, 0, stream.attempt, ())
            live = stream.run.live
            self._recorder.submit(
                Submission(live, EventKind.HELLO, stream.stream_id, payload=events.encode(again))
            )
        stream.returned(answers_challenges=present.answers_challenges)
        stream.heard()
        self._registry.connect(stream, session, relayed=True)
        self._enter(session, self._script_backends.fed_by(stream, present.script_backends))

    # ---- from time to time -----------------------------------------------------------------------

    def restored(self, run: Run, backlog: Backlog) -> None:
        """A run was taken up from the journal."""
        self._script_backends.restored(run, backlog.cursors)

    def ticked(self, live: LiveRun) -> None:
        """Something of a run was committed."""
        pass_on(self._registry, live)
        self._delivery.ticked(live)

    def poll(self) -> None:
        """Do what is due; called several times a second."""
        self.report_gone()
        self._script_backends.poll()
        self._nodes.poll()
        for session in self._sessions:
            send_backend_news(session, self._pumps)
            if session.wants_delivery and self._delivery.is_delivered(session):
                session.wants_delivery = False
                session.send(pb.DaemonMessage(delivered=pb.Delivered()))

    def report_gone(self) -> None:
        """Have ranks counted as lost or absent that have been away for too long."""
        self._endings.report_gone(self._settings.lost_timeout_s, self._settings.start_timeout_s)

    def end_outstayed(self, runs: list[Run]) -> None:
        """The job is about to be killed, with the ranks of ``runs`` that are still connected."""
        self._endings.end_outstayed(runs)

    def end_deserted(self, runs: list[Run]) -> None:
        """The daemon ends, and no rank of ``runs`` is connected: they end too."""
        self._endings.end_abandoned(runs)

    def end_idle(self) -> None:
        """The daemon ends since nobody needs it: no run shall stay RUNNING for ever."""
        self._endings.report_gone(0.0, 0.0)

    async def close(self) -> None:
        """Nothing is kept open here."""
