"""The admission of a node's daemon: it asks the root about every new rank, and reports its ranks to the root.

Batches of ranks are journalled and acknowledged here, and gathered for the root at the pace that the root
asks for. A known rank can reconnect without the root. A new rank needs the root, since only the root knows
the rank's run and attempt.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import structlog

from tracker_daemon.admission.rank_admission import flush_interval_ms
from tracker_daemon.backends.root import UPSTREAM
from tracker_daemon.delivery.run_delivery import RunDelivery
from tracker_daemon.errors import JournalError, ProtocolError, SettingsError, UpstreamUnavailable
from tracker_daemon.ingest.session import Session, SessionContext
from tracker_daemon.journal.event import EventKind
from tracker_daemon.recording import events
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.recording.recorder import Recorder
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Admission, Run, Stream
from tracker_daemon.runs.run_endings import KILLED, RunEndings
from tracker_daemon.runs.run_options import RootBackends, RunOptions
from tracker_daemon.runs.stored_runs import RestoredRun, StoredRuns
from tracker_daemon.settings.definitions import Settings
from tracker_daemon.upstream.forwarded_session import ForwardedSession
from tracker_daemon.upstream.forwarder import UPSTREAM_FILES, Forwarder
from tracker_daemon.upstream.root import Root
from tracker_daemon.upstream.root_link import ThisNode
from tracker_daemon.version import VERSION
from tracker_daemon.wire.hello import check_hello
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

log = structlog.get_logger(__name__)


class NodeAdmission:
    """The :class:`tracker_daemon.admission.rank_admission.RankAdmission` of a node's daemon.

    On the event loop.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        recorder: Recorder,
        delivery: RunDelivery,
        stored_runs: StoredRuns,
        endings: RunEndings,
        forwarder: Forwarder,
        root: Root,
        node: ThisNode,
        state_directory: Path,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._recorder = recorder
        self._delivery = delivery
        self._stored_runs = stored_runs
        self._endings = endings
        self._forwarder = forwarder
        self._root = root
        self._node = node
        self._sessions: set[Session] = set()
        self._this_forwarder = pb.Forwarder(
            root=str(root), host=node.host, state_directory=str(state_directory)
        )

    # ---- admission -------------------------------------------------------------------------------

    async def admit(self, hello: pb.Hello) -> tuple[Session, pb.DaemonMessage]:
        """Admit a rank, a new one after the root's decision; return its session and the Welcome.

        Raises:
            UpstreamUnavailable: the rank is new, and the root cannot be reached.
            ClientRefused, SettingsError, ProtocolError: the root or this daemon refuses the rank.
        """
        if hello.HasField("node"):
            raise SettingsError(self._not_a_root())
        check_hello(hello)
        await self._restore_forgotten(hello)
        if hello.stream_id in self._registry.streams:
            return await self._enter(hello, self._registry.admit(hello), None)
        await self._wait_for_predecessor(hello)
        welcome, options = await self._ask_root(hello)
        admission = self._registry.admit_decided(hello, welcome.run_id, welcome.attempt, options)
        return await self._enter(hello, admission, welcome)

    async def _restore_forgotten(self, hello: pb.Hello) -> None:
        restored = await self._stored_runs.restore_forgotten(hello)
        if restored is not None:
            self.add_restored(restored)

    async def _wait_for_predecessor(self, hello: pb.Hello) -> None:
        """Wait, for a bounded time, until the root has everything of the rank's former process.

        The root then opens the next attempt, and counts values of the former attempt as late.
        """
        earlier = self._registry.predecessor(hello)
        if earlier is None:
            return
        acknowledged = asyncio.Event()
        self._forwarder.once_acknowledged(earlier.run, acknowledged.set)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(acknowledged.wait(), limits.PREDECESSOR_WAIT_S)

    async def _ask_root(self, hello: pb.Hello) -> tuple[pb.Welcome, RunOptions]:
        """Ask the root about a rank that is new here; return its Welcome and the run's options."""
        asked = pb.Hello()
        asked.CopyFrom(hello)
        # The root has none of the rank's own batches, and never receives them as they are.
        asked.last_acknowledged = asked.oldest_held = 0
        del asked.names[:]
        try:
            async with self._root.connection() as connection:
                reply = await connection.admit(pb.AdmitRequest(node_id=self._node.id, hello=asked))
                self._root.worked(connection.address)
        except UpstreamUnavailable as error:
            log.warning("a rank has to wait", rank=hello.process.rank, reason=str(error))
            raise
        return reply.welcome, _options_of(reply)

    async def _enter(
        self, hello: pb.Hello, admission: Admission, root_welcome: pb.Welcome | None
    ) -> tuple[Session, pb.DaemonMessage]:
        stream, run = admission.stream, admission.stream.run
        link = self._forwarder.link_of(run)
        session = ForwardedSession(
            admission, self._session_context(), link.send_from_rank, root_welcome, self._this_forwarder
        )
        self._registry.connect(stream, session)
        new = {UPSTREAM: b"", UPSTREAM_FILES: b""} if admission.new_run else {}
        classes = _receiving_classes(stream, hello)
        try:
            welcome = await session.welcome(hello, new_backends=new, script_backends=classes, version=VERSION)
            if new:
                run.backends.append(UPSTREAM)
                await self._delivery.begin(run)
        except BaseException:  # cancelled too, if the client has disconnected: free its rank again
            self.remove(session)
            raise
        self._sessions.add(session)
        link.add_rank(
            pb.PresentRank(
                stream_id=stream.stream_id,
                answers_challenges=hello.answers_challenges,
                script_backends=hello.script_backends,
            )
        )
        if admission.new_stream:
            log.info("a rank joined", run_id=run.run_id, rank=stream.rank, host=stream.host, pid=stream.pid)
        return session, welcome

    async def admit_rank(self, request: pb.AdmitRequest) -> pb.AdmitReply:  # noqa: ARG002 - every request
        """Refuse: only a root decides about the ranks of other nodes."""
        raise SettingsError(self._not_a_root())

    def _not_a_root(self) -> str:
        return (
            f"the daemon on {self._node.host} only forwards, to {self._root}; name that one with --upstream: "
            "nodes' daemons forward to the root itself"
        )

    def remove(self, session: Session) -> None:
        """Remove an ended connection, and report it to the root once the root has everything of the rank."""
        self._sessions.discard(session)
        stream = session.stream
        self._registry.disconnect(stream, session)

        def report() -> None:
            if stream.connection is None:
                self._forwarder.link_of(stream.run).remove_rank(stream.stream_id)

        if stream.run.live.row_id:
            with suppress(JournalError):  # the journal is closed, so the daemon is ending
                self._forwarder.once_acknowledged(stream.run, report)

    def _session_context(self) -> SessionContext:
        return SessionContext(
            self._recorder,
            asyncio.get_running_loop(),
            self._flush_interval_ms,
            self._endings.expect_exit_status,
            self._await_delivery,
        )

    def _flush_interval_ms(self) -> int:
        return flush_interval_ms(self._settings.flush_interval_s, lambda: len(self._sessions))

    # ---- runs ------------------------------------------------------------------------------------

    def add_restored(self, restored: RestoredRun) -> None:
        """Add a run of the journal; its ranks may return, and the root may ask for them."""
        self._forwarder.add_restored(restored.run, restored.backlog)

    def on_commit(self, live: LiveRun) -> None:
        """Deliver new entries of a run."""
        self._delivery.deliver_new(live)

    def poll(self) -> None:
        """Do the work that is due; called several times a second."""
        self._endings.poll(self._registry.runs.values())
        self._forwarder.poll()

    def _await_delivery(self, session: Session, asked: pb.AwaitDelivery) -> None:
        """Once the root has a rank's values, answer the rank, or ask the root to report their delivery."""
        stream = session.stream
        if asked.recorded:
            answer = pb.DaemonMessage(delivered=pb.Delivered(recorded=True))
            proceed = partial(session.send, answer)
        else:
            message = pb.ClientMessage(await_delivery=asked)
            link = self._forwarder.link_of(stream.run)
            proceed = partial(link.send_from_rank, stream.stream_id, message)
        self._forwarder.once_acknowledged(stream.run, proceed, with_files=True)

    def end_killed(self, runs: list[Run]) -> None:
        """Note that the job and the connected ranks of ``runs`` are about to be killed."""
        self._endings.settle_exit_statuses()
        for run in runs:
            log.warning("ranks are still connected at the end of the job's grace", run_id=run.run_id)
            ranks = tuple(stream.rank for stream in run.current())
            killed = events.LaunchEndedEvent(KILLED, own=ranks)
            self._forwarder.submit(run, EventKind.LAUNCH_ENDED, events.encode(killed))

    def end_disconnected(self, runs: list[Run]) -> None:  # noqa: ARG002 - the root decides whether they end
        """Send all gathered values to the root, since the daemon is ending."""
        for run in self._registry.runs.values():
            if run.live.view.to_forward:
                self._forwarder.cut(run, events.ForwardExtent.EVERYTHING)

    def end_all(self) -> None:
        """Do nothing: an idle node's daemon has only runs that the root has ended."""

    async def close(self) -> None:
        """Close the connections to the root."""
        await self._forwarder.close()


def _options_of(reply: pb.AdmitReply) -> RunOptions:
    """Return the run's options, with the backends that the run has at the root."""
    welcome = reply.welcome
    try:
        options = msgspec.json.decode(reply.options, type=RunOptions)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"the root's answer has options that cannot be read: {error}") from error
    at_root = RootBackends(tuple(welcome.backends), tuple(welcome.script_backends))
    # The root keeps the description of the script.
    return msgspec.structs.replace(
        options, forwarding=at_root, described_by=options.primary_rank, outdir=welcome.outdir
    )


def _receiving_classes(stream: Stream, hello: pb.Hello) -> list[str]:
    """Return the classes of the rank's script that receive records from the root."""
    options = stream.run.options
    if stream.rank != options.primary_rank or options.forwarding is None:
        return []
    return sorted(set(options.forwarding.script_backends).intersection(hello.script_backends))
