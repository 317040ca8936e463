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
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import structlog

from tracker_daemon.aggregation.node_fold import NodeFold
from tracker_daemon.backends.base import FILES_LANE, RunDescription, lane_of
from tracker_daemon.backends.forwarding import UPSTREAM, ForwardState, read_state
from tracker_daemon.delivery.fleet import Fleet
from tracker_daemon.errors import JournalError, ProtocolError, SettingsError, UpstreamUnavailable
from tracker_daemon.front import flush_interval_ms
from tracker_daemon.ingest import events
from tracker_daemon.ingest.hello_check import check_hello
from tracker_daemon.ingest.live_run import LiveRun
from tracker_daemon.ingest.recorder import Recorder, Submission
from tracker_daemon.ingest.registry import Registry
from tracker_daemon.ingest.run_options import Forwarding as RunForwarding
from tracker_daemon.ingest.run_options import RunOptions
from tracker_daemon.ingest.runs import Admission, Run, Stream
from tracker_daemon.ingest.session import Session
from tracker_daemon.journal.event import EventKind
from tracker_daemon.journal.rows import Backlog, CursorRow
from tracker_daemon.journal.store import Journal
from tracker_daemon.run_delivery import RunDelivery
from tracker_daemon.run_endings import KILLED
from tracker_daemon.settings import Settings
from tracker_daemon.upstream.forwarded_session import ForwardedSession
from tracker_daemon.upstream.lane import Mark
from tracker_daemon.upstream.link import Link, PumpLane, ThisNode
from tracker_daemon.upstream.root import Root, root_source
from tracker_daemon.version import VERSION
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

log = structlog.get_logger(__name__)
_EVERYTHING, _WHAT_IS_WHOLE = 1, 0
_FILES = UPSTREAM + FILES_LANE


@dataclass(slots=True, eq=False)
class _Forwarded:
    """A run on its way to the root."""

    run: Run
    link: Link
    cut_s: float = 0.0
    """When it was cut last."""
    awaiting: list[_Awaiting] = field(default_factory=list)
    heartbeat_s: float = 0.0
    """When the root was shown last that this daemon lives."""
    flushes_wanted: bool | None = None
    """As the journal has it; None where this process does not know that."""


@dataclass(frozen=True, slots=True)
class _Awaiting:
    """What is to be done once the root has the entries up to ``entry``, and items up to ``files``."""

    entry: int
    files: int
    then: Callable[[], None]

    def is_due(self, reached: Mapping[str, int]) -> bool:
        return reached.get(UPSTREAM, 0) >= self.entry and reached.get(_FILES, 0) >= self.files


class Forwarding:
    """The :class:`tracker_daemon.front.Front` of a daemon that forwards. On the event loop.

    ``recall`` takes up again a run that ended long ago; ``contents`` is where the contents of items are.
    """

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        registry: Registry,
        recorder: Recorder,
        fleet: Fleet,
        delivery: RunDelivery,
        contents: Path,
        recall: Callable[[pb.Hello], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._registry = registry
        self._recorder = recorder
        self._fleet = fleet
        self._delivery = delivery
        self._contents = contents
        self._recall = recall
        self._root = Root(root_source(settings))
        self._node = ThisNode(_node_id(journal.token), socket.gethostname(), os.getpid())
        self._sessions: set[Session] = set()
        self._forwarded: dict[str, _Forwarded] = {}
        self._resumed: dict[tuple[str, bool], ForwardState] = {}
        self._marks: dict[tuple[str, int, bool], Mark] = {}
        self._reached: dict[str, Mapping[str, int]] = {}
        """By run, how far each cursor had come when it was taken up: what is delivered has no pump."""

    # ---- runs ------------------------------------------------------------------------------------

    def restored(self, run: Run, backlog: Backlog) -> None:
        """A run was taken up from the journal; its ranks may come back, and the root may ask for them."""
        cursors = backlog.cursors
        self._loop = asyncio.get_running_loop()
        run.backends = [cursor.backend for cursor in cursors if not lane_of(cursor.backend)[1]]
        self._reached[run.run_id] = {cursor.backend: cursor.position for cursor in cursors}
        for cursor in cursors:
            if lane_of(cursor.backend)[0] == UPSTREAM:
                self._resume(run.run_id, cursor, backlog.pending(cursor))
        if run.running and run.live.forwards:
            self._find(run)

    def _resume(self, run_id: str, cursor: CursorRow, pending: int) -> None:
        state = read_state(cursor.state) or ForwardState(self._journal.epoch, 0)
        if state.epoch == self._journal.epoch:
            files = lane_of(cursor.backend)[1]
            self._resumed[run_id, files] = state
            mark = self._mark(run_id, state.epoch, files)
            mark.highest = max(mark.highest, state.sequence + pending)

    def _find(self, run: Run) -> _Forwarded:
        self._loop = asyncio.get_running_loop()
        found = self._forwarded.get(run.run_id)
        if found is None or found.run is not run:
            link = Link(
                self._root, self._node, run.run_id, partial(self._names, run.live),
                partial(self._take, run), partial(self._connected, run.live),
                partial(self._mark, run.run_id), partial(self._root_is_ahead, run),
            )  # fmt: skip
            found = self._forwarded[run.run_id] = _Forwarded(run, link)
            begun = ForwardState(self._journal.epoch, 0)
            link.lane(self._resumed.get((run.run_id, False), begun))
        return found

    def _mark(self, run_id: str, epoch: int, files: bool) -> Mark:  # noqa: FBT001 - as a key
        return self._marks.setdefault((run_id, epoch, files), Mark())

    def _root_is_ahead(self, run: Run, has: int) -> None:
        """The root has more of a run than the journal accounts for: the journal has lost what came last."""
        text = (
            f"the journal of the daemon on {self._node.host} has lost what it had forwarded last: the daemon "
            f"above has batches up to {has}. What it had not forwarded by then is lost"
        )
        log.error(text, run_id=run.run_id)
        notice = events.encode(events.NoticeEvent(text, journal_lost=True))
        begin = partial(_begin_epoch, self._recorder)
        self._submit(run, EventKind.NOTICE, notice, partial(self._begin_anew, run), begin)

    def _begin_anew(self, run: Run) -> None:
        """The journal is in another epoch, in which the root has nothing of it yet."""
        self._find(run).link.begin_anew(self._journal.epoch)

    async def _names(self, live: LiveRun) -> Sequence[str]:
        def read(_: Journal) -> Sequence[str]:
            fold = self._recorder.fold_of(live)
            return fold.dictionary() if isinstance(fold, NodeFold) else ()

        return await asyncio.wrap_future(self._recorder.call(read))

    def open_lane(self, run: RunDescription) -> PumpLane:
        """Where a pump delivers a run; on its thread."""
        find = partial(self._link_of, run.run_id)
        return PumpLane(
            self._root, find, self._loop, self._contents, lambda: self._journal.epoch, files=run.files_lane
        )

    def _link_of(self, run_id: str) -> Link:
        return self._find(self._registry.runs[run_id]).link

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
        earlier = self._registry.predecessors(hello)
        if not earlier:
            return
        acknowledged = asyncio.Event()
        self._once_acknowledged(earlier[0].run, acknowledged.set)
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
        forwarding = RunForwarding(tuple(welcome.backends), tuple(welcome.script_backends))
        # What script it is, is told to the root.
        return welcome, msgspec.structs.replace(
            options, forwarding=forwarding, described_by=options.primary_rank, outdir=welcome.outdir
        )

    async def _enter(
        self, hello: pb.Hello, admission: Admission, decided: pb.Welcome | None
    ) -> tuple[Session, pb.DaemonMessage]:
        stream, run = admission.stream, admission.stream.run
        link = self._find(run).link
        session = ForwardedSession(
            admission,
            self._recorder,
            asyncio.get_running_loop(),
            self._flush_interval_ms,
            link.relay,
            decided,
        )
        self._registry.connect(stream, session)
        new = {UPSTREAM: b"", _FILES: b""} if admission.new_run else {}
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
                self._find(stream.run).link.left(stream.stream_id)

        if stream.run.live.row_id:
            with suppress(JournalError):  # it is closed: nobody can be told any more
                self._once_acknowledged(stream.run, tell)

    def _flush_interval_ms(self) -> int:
        return flush_interval_ms(self._settings.flush_interval_s, lambda: len(self._sessions))

    # ---- what the root says ----------------------------------------------------------------------

    def _connected(self, live: LiveRun, files: bool) -> None:  # noqa: FBT001 - as the link calls it
        """Deliver at once: after a long outage the pump would try again up to a minute later than others'."""
        self._fleet.resume(live.row_id, _FILES if files else UPSTREAM)

    def _take(self, run: Run, message: pb.DaemonMessage) -> None:
        kind = message.WhichOneof("message")
        if kind == "to_rank":
            told = message.to_rank
            if told.message.HasField("delivered"):
                self._find(run).link.delivered(told.stream_id)
            stream = run.streams.get(told.stream_id)
            if stream is not None and isinstance(stream.connection, Session):
                stream.connection.send(told.message)
        elif kind == "run_over" and run.running:
            over = events.OverEvent(message.run_over.status, message.run_over.reason)
            self._submit(run, EventKind.OVER, events.encode(over))

    # ---- cuts ------------------------------------------------------------------------------------

    def _cut(self, run: Run, extent: int, then: Callable[[], None] | None = None) -> None:
        """Have what is gathered made into batches; ``then`` is called once they are in the journal."""
        self._find(run).cut_s = time.monotonic()
        self._submit(run, EventKind.CUT, events.encode(extent), then)

    def _submit(
        self,
        run: Run,
        kind: EventKind,
        payload: bytes,
        then: Callable[[], None] | None = None,
        prepare: Callable[[Journal], None] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()

        def committed(_: int) -> None:
            if then is not None and not loop.is_closed():
                loop.call_soon_threadsafe(then)

        self._recorder.submit(
            Submission(run.live, kind, payload=payload, prepare=prepare, committed=committed)
        )

    def _once_acknowledged(self, run: Run, then: Callable[[], None], *, with_files: bool = False) -> None:
        """Call ``then`` when the root has everything that the run's ranks have said until now."""

        def journalled() -> None:
            view = run.live.view
            awaiting = _Awaiting(view.last_entry, view.last_files if with_files else 0, then)
            self._find(run).awaiting.append(awaiting)

        self._cut(run, _EVERYTHING, journalled)

    # ---- from time to time -----------------------------------------------------------------------

    def ticked(self, live: LiveRun) -> None:
        """Something of a run was committed."""
        self._delivery.ticked(live)

    def look_after(self) -> None:
        """Do what is due; called several times a second."""
        for session in self._sessions:
            if session.wants_delivery:
                session.wants_delivery = False
                asking = pb.ClientMessage(await_delivery=pb.AwaitDelivery())
                relay = self._find(session.stream.run).link.relay
                ask = partial(relay, session.stream.stream_id, asking)
                self._once_acknowledged(session.stream.run, ask, with_files=True)
        now = time.monotonic()
        for forwarded in list(self._forwarded.values()):
            self._forward(forwarded, now)

    def _forward(self, forwarded: _Forwarded, now: float) -> None:
        run, link = forwarded.run, forwarded.link
        if link.root_learns != forwarded.flushes_wanted and run.live.row_id:
            forwarded.flushes_wanted = link.root_learns
            self._submit(run, EventKind.FLUSHES_WANTED, events.encode(int(link.root_learns)))
        if now - forwarded.heartbeat_s >= limits.NODE_HEARTBEAT_S:
            forwarded.heartbeat_s = now
            link.heartbeat()
        interval_s = link.flush_interval_s()
        if run.live.view.to_forward and now - forwarded.cut_s >= (interval_s or 0.0):
            self._cut(run, _WHAT_IS_WHOLE)
        reached = self._reached_by(run)
        due = [awaiting for awaiting in forwarded.awaiting if awaiting.is_due(reached)]
        forwarded.awaiting = [awaiting for awaiting in forwarded.awaiting if awaiting not in due]
        for awaiting in due:
            awaiting.then()
        if not (run.running or forwarded.awaiting or run.live.view.to_forward) and self._is_done(run):
            del self._forwarded[run.run_id]
            asyncio.get_running_loop().create_task(link.close())

    def _reached_by(self, run: Run) -> Mapping[str, int]:
        healths = self._fleet.health(run.live.row_id)
        opened = {cursor: health.delivered_entry for cursor, health in healths.items()}
        return {**self._reached.get(run.run_id, {}), **opened}

    def _is_done(self, run: Run) -> bool:
        return run.is_deserted() and self._fleet.is_finished(run.live.row_id)

    def end_outstayed(self, runs: list[Run]) -> None:
        """The job is about to be killed, and this node's ranks with it."""
        for run in runs:
            log.warning("ranks outstay the job's grace", run_id=run.run_id)
            self._submit(run, EventKind.ENDED, events.encode(KILLED))

    def end_deserted(self, runs: list[Run]) -> None:  # noqa: ARG002 - whether it is deserted, the root decides
        """The daemon ends: whatever is gathered goes to the root now."""
        for run in self._registry.runs.values():
            if run.live.view.to_forward:
                self._cut(run, _EVERYTHING)

    def end_idle(self) -> None:
        """Nothing: the root has ended all runs."""

    async def close(self) -> None:
        """End the connections to the root."""
        for forwarded in list(self._forwarded.values()):  # pumps may find further ones meanwhile
            await forwarded.link.close()


def _begin_epoch(recorder: Recorder, _: Journal) -> None:
    recorder.begin_epoch()


def _node_id(token: str) -> bytes:
    """What tells this journal from all others, of its own token, which is never told."""
    return hashlib.sha256(b"node\0" + token.encode()).digest()[:16]
