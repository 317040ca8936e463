"""Forwarding: the front of a node's daemon, which asks the root about every rank and tells it what they say.

What ranks log is journalled here, acknowledged here and gathered for the root, at the pace that the root
wants. A rank that is known comes back without the root; a new one needs it, since only the root knows its
run and its attempt.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import structlog

from tracker_daemon.admission.rank_admission import flush_interval_ms
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.root import UPSTREAM
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.errors import JournalError, ProtocolError, SettingsError, UpstreamUnavailable
from tracker_daemon.ingest.session import Session, SessionContext
from tracker_daemon.journal.event import EventKind
from tracker_daemon.journal.rows import Backlog
from tracker_daemon.journal.store import Journal
from tracker_daemon.lifecycle.run_delivery import RunDelivery
from tracker_daemon.lifecycle.run_endings import KILLED
from tracker_daemon.recording import events
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.recording.recorder import Recorder
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Admission, Run, Stream
from tracker_daemon.runs.run_options import RootBackends, RunOptions
from tracker_daemon.settings.definitions import Settings
from tracker_daemon.upstream.forwarded_runs import FILES, ForwardedRuns
from tracker_daemon.upstream.forwarded_session import ForwardedSession
from tracker_daemon.upstream.link import PumpLane, ThisNode
from tracker_daemon.upstream.root import Root, root_source
from tracker_daemon.version import VERSION
from tracker_daemon.wire.hello import check_hello
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

log = structlog.get_logger(__name__)


class NodeAdmission:
    """The ``RankAdmission`` of a daemon that forwards. On the event loop.

    ``recall`` takes up again a run that ended long ago; ``contents`` is where the contents of items are.
    """

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        registry: Registry,
        recorder: Recorder,
        pumps: PumpSet,
        delivery: RunDelivery,
        contents: Path,
        recall: Callable[[pb.Hello], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._recorder = recorder
        self._delivery = delivery
        self._recall = recall
        self._root = Root(root_source(settings))
        self._node = ThisNode(_node_id(journal.token), socket.gethostname(), os.getpid())
        self._sessions: set[Session] = set()
        self._runs = ForwardedRuns(journal, registry, recorder, pumps, contents, self._root, self._node)

    # ---- runs ------------------------------------------------------------------------------------

    def restored(self, run: Run, backlog: Backlog) -> None:
        """A run was taken up from the journal; its ranks may come back, and the root may ask for them."""
        self._runs.restored(run, backlog)

    def open_lane(self, run: RunDescription) -> PumpLane:
        """Where a pump delivers a run; on its thread."""
        return self._runs.open_lane(run)

    # ---- the connected ---------------------------------------------------------------------------

    async def admit(self, hello: pb.Hello) -> tuple[Session, pb.DaemonMessage]:
        """Let a rank in, once the root has said who it is, or raise what the server answers instead."""
        if hello.HasField("node"):
            raise SettingsError(self._not_a_root())
        check_hello(hello)
        await self._recall(hello)
        decided = None
        if hello.stream_id in self._registry.streams:
            admission = self._registry.admit(hello)
        else:
            await self._forward_predecessor(hello)
            decided, options = await self._ask(hello)
            admission = self._registry.admit_decided(hello, decided.run_id, decided.attempt, options)
        return await self._enter(hello, admission, decided)

    async def _forward_predecessor(self, hello: pb.Hello) -> None:
        """Where the rank had a process before, give the root first what that attempt has said, for a while.

        The root opens the next attempt then, and what comes of the one before is late.
        """
        earlier = self._registry.predecessor(hello)
        if earlier is None:
            return
        acknowledged = asyncio.Event()
        self._runs.once_acknowledged(earlier.run, acknowledged.set)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(acknowledged.wait(), limits.PREDECESSOR_WAIT_S)

    async def _ask(self, hello: pb.Hello) -> tuple[pb.Welcome, RunOptions]:
        """What the root decides about a rank that is new here."""
        asked = pb.Hello()
        asked.CopyFrom(hello)
        # The root has none of its batches, nor will it get them as they are.
        asked.last_acknowledged = asked.oldest_held = 0
        del asked.names[:]
        try:
            async with self._root.connection() as connection:
                reply = await connection.admit(pb.AdmitRequest(node_id=self._node.id, hello=asked))
                self._root.worked(connection.address)
        except UpstreamUnavailable as error:
            log.warning("a rank has to wait", rank=hello.process.rank, reason=str(error))
            raise
        welcome = reply.welcome
        try:
            options = msgspec.json.decode(reply.options, type=RunOptions)
        except msgspec.DecodeError as error:
            raise ProtocolError(f"the daemon to forward to answers in an unknown way: {error}") from error
        forwarding = RootBackends(tuple(welcome.backends), tuple(welcome.script_backends))
        # What script it is, is told to the root.
        return welcome, msgspec.structs.replace(
            options, forwarding=forwarding, described_by=options.primary_rank, outdir=welcome.outdir
        )

    async def _enter(
        self, hello: pb.Hello, admission: Admission, decided: pb.Welcome | None
    ) -> tuple[Session, pb.DaemonMessage]:
        stream, run = admission.stream, admission.stream.run
        link = self._runs.find(run).link
        session = ForwardedSession(admission, self._serving(), link.relay, decided)
        self._registry.connect(stream, session)
        new = {UPSTREAM: b"", FILES: b""} if admission.new_run else {}
        fed = self._fed_by(stream, hello)
        try:
            welcome = await session.welcome(hello, new_backends=new, script_backends=fed, version=VERSION)
            if new:
                run.backends.append(UPSTREAM)
                await self._delivery.begin(run)
        except BaseException:  # cancelled too, when the client has gone: its rank must not stay taken
            self.left(session)
            raise
        self._sessions.add(session)
        link.came(
            pb.PresentRank(
                stream_id=stream.stream_id,
                answers_challenges=hello.answers_challenges,
                script_backends=hello.script_backends,
            )
        )
        if admission.new_stream:
            log.info("a rank joined", run_id=run.run_id, rank=stream.rank, host=stream.host, pid=stream.pid)
        return session, welcome

    def _fed_by(self, stream: Stream, hello: pb.Hello) -> list[str]:
        """Which classes of its script the root feeds."""
        options = stream.run.options
        if stream.rank != options.primary_rank or options.forwarding is None:
            return []
        return sorted(set(options.forwarding.script_backends).intersection(hello.script_backends))

    async def admit_rank(self, request: pb.AdmitRequest) -> pb.AdmitReply:  # noqa: ARG002 - whoever it is
        """Refuse: the root alone decides about ranks."""
        raise SettingsError(self._not_a_root())

    def _not_a_root(self) -> str:
        return (
            f"the daemon on {self._node.host} only forwards, to {self._root}; name that one with --upstream: "
            "nodes' daemons forward to the root itself"
        )

    def left(self, session: Session) -> None:
        """A connection has ended; the root is told once it has all that the rank has said."""
        self._sessions.discard(session)
        stream = session.stream
        self._registry.disconnect(stream, session)

        def tell() -> None:
            if stream.connection is None:
                self._runs.find(stream.run).link.left(stream.stream_id)

        if stream.run.live.row_id:
            with suppress(JournalError):  # it is closed: nobody can be told any more
                self._runs.once_acknowledged(stream.run, tell)

    def _serving(self) -> SessionContext:
        return SessionContext(self._recorder, asyncio.get_running_loop(), self._flush_interval_ms)

    def _flush_interval_ms(self) -> int:
        return flush_interval_ms(self._settings.flush_interval_s, lambda: len(self._sessions))

    # ---- from time to time -----------------------------------------------------------------------

    def ticked(self, live: LiveRun) -> None:
        """Something of a run was committed."""
        self._delivery.ticked(live)

    def poll(self) -> None:
        """Do what is due; called several times a second."""
        for session in self._sessions:
            if session.wants_delivery:
                session.wants_delivery = False
                asking = pb.ClientMessage(await_delivery=pb.AwaitDelivery())
                relay = self._runs.find(session.stream.run).link.relay
                ask = partial(relay, session.stream.stream_id, asking)
                self._runs.once_acknowledged(session.stream.run, ask, with_files=True)
        self._runs.poll()

    def end_outstayed(self, runs: list[Run]) -> None:
        """The job is about to be killed, and this node's ranks with it."""
        for run in runs:
            log.warning("ranks outstay the job's grace", run_id=run.run_id)
            self._runs.submit(run, EventKind.LAUNCH_ENDED, events.encode(KILLED))

    def end_deserted(self, runs: list[Run]) -> None:  # noqa: ARG002 - whether it is deserted, the root decides
        """The daemon ends: whatever is gathered goes to the root now."""
        for run in self._registry.runs.values():
            if run.live.view.to_forward:
                self._runs.cut(run, events.ForwardExtent.EVERYTHING)

    def end_idle(self) -> None:
        """Nothing: the root has ended all runs."""

    async def close(self) -> None:
        """End the connections to the root."""
        await self._runs.close()


def _node_id(token: str) -> bytes:
    """What tells this journal from all others, of its own token, which is never told."""
    return hashlib.sha256(b"node\0" + token.encode()).digest()[:16]
