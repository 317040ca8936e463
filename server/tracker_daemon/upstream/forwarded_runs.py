"""Runs on their way to the root: their links, when what is gathered of them is cut, and what the root says.

A daemon that forwards has a link for each run from when the first rank comes, or when the run is taken up
from the journal, until it is over and everything of it is forwarded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from tracker_daemon.aggregation.node.fold import NodeFold
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.root import UPSTREAM, LanePosition
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.ingest.session import Session
from tracker_daemon.journal.event import EventKind
from tracker_daemon.journal.rows import Backlog, CursorRow
from tracker_daemon.journal.store import Journal
from tracker_daemon.outbox.lanes import FILES_LANE, backend_of, is_files_lane
from tracker_daemon.recording import events
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.recording.recorder import Recorder, Submission
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Run
from tracker_daemon.upstream.lane import Mark
from tracker_daemon.upstream.link import Link, PumpLane, ThisNode
from tracker_daemon.upstream.root import Root
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

log = structlog.get_logger(__name__)
FILES = UPSTREAM + FILES_LANE


@dataclass(slots=True, eq=False)
class ForwardedRun:
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
        return reached.get(UPSTREAM, 0) >= self.entry and reached.get(FILES, 0) >= self.files


class ForwardedRuns:
    """All runs that are on their way. On the event loop; ``contents`` is where the contents of items are."""

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        recorder: Recorder,
        pumps: PumpSet,
        contents: Path,
        root: Root,
        node: ThisNode,
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._recorder = recorder
        self._pumps = pumps
        self._contents = contents
        self._root = root
        self._node = node
        self._forwarded: dict[str, ForwardedRun] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._resumed: dict[tuple[str, bool], LanePosition] = {}
        self._marks: dict[tuple[str, int, bool], Mark] = {}
        self._reached: dict[str, Mapping[str, int]] = {}
        """By run, how far each cursor had come when it was taken up: what is delivered has no pump."""

    # ---- runs ------------------------------------------------------------------------------------

    def restored(self, run: Run, backlog: Backlog) -> None:
        """A run was taken up from the journal; its ranks may come back, and the root may ask for them."""
        cursors = backlog.cursors
        self._loop = asyncio.get_running_loop()
        run.backends = [cursor.backend for cursor in cursors if not is_files_lane(cursor.backend)]
        self._reached[run.run_id] = {cursor.backend: cursor.position for cursor in cursors}
        for cursor in cursors:
            if backend_of(cursor.backend) == UPSTREAM:
                self._resume(run.run_id, cursor, backlog.pending(cursor))
        if run.running and run.live.forwards:
            self.find(run)

    def _resume(self, run_id: str, cursor: CursorRow, pending: int) -> None:
        state, begun = LanePosition.from_bytes(cursor.state), LanePosition(self._journal.epoch, 0)
        if state is None or state.epoch != begun.epoch:
            state = begun
        files = is_files_lane(cursor.backend)
        self._resumed[run_id, files] = state
        # All that is pending may have been sent, without a time left to move the cursor.
        mark = self._mark(run_id, state.epoch, files)
        mark.highest = max(mark.highest, state.sequence + pending)

    def find(self, run: Run) -> ForwardedRun:
        """The run on its way, its link made when it is first asked for."""
        self._loop = asyncio.get_running_loop()
        found = self._forwarded.get(run.run_id)
        if found is None or found.run is not run:
            link = Link(
                self._root, self._node, run.run_id, partial(self._names, run.live),
                partial(self._take, run), partial(self._connected, run.live),
                partial(self._mark, run.run_id), partial(self._root_is_ahead, run),
            )  # fmt: skip
            found = self._forwarded[run.run_id] = ForwardedRun(run, link)
            begun = LanePosition(self._journal.epoch, 0)
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
        self.submit(run, EventKind.NOTICE, notice, partial(self._begin_anew, run), begin)

    def _begin_anew(self, run: Run) -> None:
        """The journal is in another epoch, in which the root has nothing of it yet."""
        self.find(run).link.begin_anew(self._journal.epoch)

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
        return self.find(self._registry.runs[run_id]).link

    # ---- what the root says ----------------------------------------------------------------------

    def _connected(self, live: LiveRun, files: bool) -> None:  # noqa: FBT001 - as the link calls it
        """Deliver at once: after a long outage the pump would try again up to a minute later than others'."""
        self._pumps.resume(live.row_id, FILES if files else UPSTREAM)

    def _take(self, run: Run, message: pb.DaemonMessage) -> None:
        kind = message.WhichOneof("message")
        if kind == "to_rank":
            told = message.to_rank
            if told.message.HasField("delivered"):
                self.find(run).link.delivered(told.stream_id)
            stream = run.streams.get(told.stream_id)
            if stream is not None and isinstance(stream.connection, Session):
                stream.connection.send(told.message)
        elif kind == "run_over" and run.running:
            over = events.RunEndedEvent(message.run_over.status, message.run_over.reason)
            self.submit(run, EventKind.ENDED_BY_ROOT, events.encode(over))

    # ---- cuts ------------------------------------------------------------------------------------

    def cut(self, run: Run, extent: events.ForwardExtent, then: Callable[[], None] | None = None) -> None:
        """Have what is gathered made into batches; ``then`` is called once they are in the journal."""
        self.find(run).cut_s = time.monotonic()
        self.submit(run, EventKind.FORWARD, events.encode(int(extent)), then)

    def submit(
        self,
        run: Run,
        kind: EventKind,
        payload: bytes,
        then: Callable[[], None] | None = None,
        prepare: Callable[[Journal], None] | None = None,
    ) -> None:
        """Have an event journalled; ``then`` is called once it is, ``prepare`` within its transaction."""
        loop = asyncio.get_running_loop()

        def committed(_: int) -> None:
            if then is not None and not loop.is_closed():
                loop.call_soon_threadsafe(then)

        self._recorder.submit(
            Submission(run.live, kind, payload=payload, prepare=prepare, committed=committed)
        )

    def once_acknowledged(self, run: Run, then: Callable[[], None], *, with_files: bool = False) -> None:
        """Call ``then`` when the root has everything that the run's ranks have said until now."""

        def journalled() -> None:
            view = run.live.view
            awaiting = _Awaiting(view.last_entry, view.last_files if with_files else 0, then)
            self.find(run).awaiting.append(awaiting)

        self.cut(run, events.ForwardExtent.EVERYTHING, journalled)

    # ---- from time to time -----------------------------------------------------------------------

    def poll(self) -> None:
        """Do what is due; called several times a second."""
        now = time.monotonic()
        for forwarded in list(self._forwarded.values()):
            self._forward(forwarded, now)

    def _forward(self, forwarded: ForwardedRun, now: float) -> None:
        run, link = forwarded.run, forwarded.link
        if link.root_learns != forwarded.flushes_wanted and run.live.row_id:
            forwarded.flushes_wanted = link.root_learns
            self.submit(run, EventKind.FLUSHES_WANTED, events.encode(int(link.root_learns)))
        if now - forwarded.heartbeat_s >= limits.NODE_HEARTBEAT_S:
            forwarded.heartbeat_s = now
            link.heartbeat()
        interval_s = link.flush_interval_s()
        if run.live.view.to_forward and now - forwarded.cut_s >= (interval_s or 0.0):
            self.cut(run, events.ForwardExtent.WHOLE_ROWS)
        if forwarded.awaiting:
            self._do_what_is_due(forwarded)
        if not (run.running or forwarded.awaiting or run.live.view.to_forward) and self._is_done(run):
            del self._forwarded[run.run_id]
            closing = asyncio.get_running_loop().create_task(link.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _do_what_is_due(self, forwarded: ForwardedRun) -> None:
        reached = self._reached_by(forwarded.run)
        due = [awaiting for awaiting in forwarded.awaiting if awaiting.is_due(reached)]
        forwarded.awaiting = [awaiting for awaiting in forwarded.awaiting if awaiting not in due]
        for awaiting in due:
            awaiting.then()

    def _reached_by(self, run: Run) -> Mapping[str, int]:
        healths = self._pumps.health(run.live.row_id)
        opened = {cursor: health.delivered_entry for cursor, health in healths.items()}
        return {**self._reached.get(run.run_id, {}), **opened}

    def _is_done(self, run: Run) -> bool:
        return run.is_deserted() and self._pumps.is_finished(run.live.row_id)

    async def close(self) -> None:
        """End the connections to the root."""
        for forwarded in list(self._forwarded.values()):  # pumps may find further ones meanwhile
            await forwarded.link.close()


def _begin_epoch(recorder: Recorder, _: Journal) -> None:
    recorder.begin_epoch()
