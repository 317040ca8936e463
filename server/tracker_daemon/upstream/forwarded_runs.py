"""The runs that this daemon forwards, each with its link to the root.

A run gets its link when its first rank is admitted, or when the run is restored from the journal. It keeps
the link until it has ended and the root has everything of it. :mod:`.forwarder` decides what is sent and
when a run is removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from tracker_daemon.aggregation.node.fold import NodeFold
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.root import UPSTREAM, LanePosition
from tracker_daemon.ingest.session import Session
from tracker_daemon.journal.event import EventKind
from tracker_daemon.journal.rows import Backlog, CursorRow
from tracker_daemon.journal.store import Journal
from tracker_daemon.outbox.lanes import backend_of, is_files_lane
from tracker_daemon.recording import events
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.recording.recorder import Recorder, Submission
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Run
from tracker_daemon.upstream.lane_stream import JournalledSequence
from tracker_daemon.upstream.pump_lane import PumpLane
from tracker_daemon.upstream.root import Root
from tracker_daemon.upstream.root_link import RootLink, ThisNode
from tracker_protocol.v1 import tracker_pb2 as pb

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class ForwardedRun:
    """A run, its link to the root, and what the forwarder keeps of it."""

    run: Run
    link: RootLink
    cut_s: float = 0.0
    """The monotonic time of the last cut."""
    waiting: list[Waiting] = field(default_factory=list)
    heartbeat_s: float = 0.0
    """The monotonic time of the last heartbeat to the root."""
    flushes_wanted: bool | None = None
    """The value that the journal has; None if this process does not know it."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A callback to call once the root has the entries up to ``entry``, and the items up to ``files``."""

    entry: int
    files: int
    callback: Callable[[], None]


class ForwardedRuns:
    """All forwarded runs. On the event loop, except :meth:`open_lane`.

    ``contents`` is the directory of the content store.
    """

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        recorder: Recorder,
        contents: Path,
        root: Root,
        node: ThisNode,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._recorder = recorder
        self._contents = contents
        self._root = root
        self._node = node
        self._loop = loop
        self._forwarded: dict[str, ForwardedRun] = {}
        self._restored_positions: dict[tuple[str, bool], LanePosition] = {}
        self._journalled: dict[tuple[str, int, bool], JournalledSequence] = {}
        self._resume_pump: dict[tuple[str, bool], Callable[[], None]] = {}
        """By run and lane: wakes the pump that delivers on the lane."""

    def __iter__(self) -> Iterator[ForwardedRun]:
        return iter(list(self._forwarded.values()))

    # ---- runs ------------------------------------------------------------------------------------

    def add_restored(self, run: Run, backlog: Backlog) -> None:
        """Add a run of the journal; its ranks may return, and the root may ask for them."""
        run.backends = [cursor.backend for cursor in backlog.cursors if not is_files_lane(cursor.backend)]
        for cursor in backlog.cursors:
            if backend_of(cursor.backend) == UPSTREAM:
                self._restore_lane(run.run_id, cursor, backlog.pending(cursor))
        if run.running and run.live.forwards:
            self.find(run)

    def _restore_lane(self, run_id: str, cursor: CursorRow, pending: int) -> None:
        position, fresh = LanePosition.from_bytes(cursor.state), LanePosition(self._journal.epoch, 0)
        if position is None or position.epoch != fresh.epoch:
            position = fresh
        files = is_files_lane(cursor.backend)
        self._restored_positions[run_id, files] = position
        # All pending batches may have been sent before the cursor could be moved.
        journalled = self._journalled_sequence(run_id, position.epoch, files)
        journalled.highest = max(journalled.highest, position.sequence + pending)

    def find(self, run: Run) -> ForwardedRun:
        """Return the forwarded run, with a new link if it has none."""
        found = self._forwarded.get(run.run_id)
        if found is None or found.run is not run:
            link = RootLink(
                self._root, self._node, run.run_id, partial(self._names, run.live),
                partial(self._take, run), partial(self._on_connected, run.run_id),
                partial(self._journalled_sequence, run.run_id), partial(self._report_lost_journal, run),
            )  # fmt: skip
            found = self._forwarded[run.run_id] = ForwardedRun(run, link)
            fresh = LanePosition(self._journal.epoch, 0)
            link.lane(self._restored_positions.get((run.run_id, False), fresh))
        return found

    def remove(self, forwarded: ForwardedRun) -> None:
        """Remove a run of which the root has everything. The caller closes its link."""
        del self._forwarded[forwarded.run.run_id]

    def _journalled_sequence(self, run_id: str, epoch: int, files: bool) -> JournalledSequence:  # noqa: FBT001 - part of the key
        return self._journalled.setdefault((run_id, epoch, files), JournalledSequence())

    async def _names(self, live: LiveRun) -> Sequence[str]:
        def read(_: Journal) -> Sequence[str]:
            fold = self._recorder.fold_of(live)
            return fold.dictionary() if isinstance(fold, NodeFold) else ()

        return await asyncio.wrap_future(self._recorder.call(read))

    # ---- lanes for pumps -------------------------------------------------------------------------

    def open_lane(self, run: RunDescription, /, resume_pump: Callable[[], None]) -> PumpLane:
        """Return the lane on which a pump delivers a run. On the pump's thread.

        ``resume_pump`` is called on the event loop whenever the lane is connected: after a long outage the
        pump would otherwise retry up to a minute later.
        """
        self._resume_pump[run.run_id, run.files_lane] = resume_pump
        find = partial(self._link_of, run.run_id)
        return PumpLane(
            self._root, find, self._loop, self._contents, lambda: self._journal.epoch, files=run.files_lane
        )

    def _link_of(self, run_id: str) -> RootLink:
        return self.find(self._registry.runs[run_id]).link

    def _on_connected(self, run_id: str, files: bool) -> None:  # noqa: FBT001 - as the link calls it
        resume_pump = self._resume_pump.get((run_id, files))
        if resume_pump is not None:
            resume_pump()

    # ---- messages of the root --------------------------------------------------------------------

    def _take(self, run: Run, message: pb.DaemonMessage) -> None:
        kind = message.WhichOneof("message")
        if kind == "to_rank":
            self._send_to_rank(run, message.to_rank)
        elif kind == "run_over" and run.running:
            ended = events.RunEndedEvent(message.run_over.status, message.run_over.reason)
            self.submit(run, EventKind.ENDED_BY_ROOT, events.encode(ended))

    def _send_to_rank(self, run: Run, to_rank: pb.ToRank) -> None:
        if to_rank.message.HasField("delivered"):
            self.find(run).link.note_delivered(to_rank.stream_id)
        stream = run.streams.get(to_rank.stream_id)
        if stream is not None and isinstance(stream.connection, Session):
            stream.connection.send(to_rank.message)

    def _report_lost_journal(self, run: Run, root_has: int) -> None:
        """Report that the root has batches that this journal lacks: the journal has lost its end."""
        text = (
            f"the journal of the daemon on {self._node.host} has lost the batches that it forwarded last: "
            f"the root has batches up to {root_has}. Values that were not forwarded by then are lost"
        )
        log.error(text, run_id=run.run_id)
        notice = events.encode(events.NoticeEvent(text, journal_lost=True))
        begin_epoch = partial(_begin_epoch, self._recorder)
        self.submit(run, EventKind.NOTICE, notice, partial(self._begin_lanes_anew, run), begin_epoch)

    def _begin_lanes_anew(self, run: Run) -> None:
        """Open the lanes of the journal's new epoch, of which the root has nothing yet."""
        self.find(run).link.begin_epoch(self._journal.epoch)

    # ---- events ----------------------------------------------------------------------------------

    def submit(
        self,
        run: Run,
        kind: EventKind,
        payload: bytes,
        on_committed: Callable[[], None] | None = None,
        prepare: Callable[[Journal], None] | None = None,
    ) -> None:
        """Journal an event of a run.

        ``prepare`` is called within its transaction, ``on_committed`` on the event loop after the commit.
        """
        loop = self._loop

        def committed(_: int) -> None:
            if on_committed is not None and not loop.is_closed():
                loop.call_soon_threadsafe(on_committed)

        self._recorder.submit(
            Submission(run.live, kind, payload=payload, prepare=prepare, committed=committed)
        )

    async def close(self) -> None:
        """Close all links."""
        for forwarded in self:  # over a copy: pumps may add links meanwhile
            await forwarded.link.close()


def _begin_epoch(recorder: Recorder, _: Journal) -> None:
    recorder.begin_epoch()
