"""The status document, put together from what the daemon's parts say."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

import structlog

from tracker_daemon.aggregation.shared.fold import FoldSummary
from tracker_daemon.backends.root import UPSTREAM
from tracker_daemon.contents.store import StoreTotals
from tracker_daemon.delivery.health import DeliveryState
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.delivery.thinned_backend import thinned_so_far
from tracker_daemon.errors import JournalError
from tracker_daemon.ingest.nodes import RelayedSession
from tracker_daemon.journal.rows import Backlog
from tracker_daemon.journal.store import Journal
from tracker_daemon.outbox.lanes import backend_of, is_files_lane
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Run, Stream
from tracker_daemon.status.document import (
    BackendStatus,
    Books,
    ContentsStatus,
    DaemonStatus,
    EventStatus,
    NodeStatus,
    RankStatus,
    RecordsStatus,
    RunStatusEntry,
    StatusDocument,
)
from tracker_protocol import limits

log = structlog.get_logger(__name__)
_RANKS_SHOWN_MAX = 20_000
_WAITING_NAMED = 4


@dataclass(frozen=True, slots=True)
class JournalFacts:
    """What only the recorder's thread may read."""

    journal_bytes: int
    epoch: int
    folds: Mapping[str, FoldSummary]
    evicted_rows: Mapping[str, int]
    backlogs: Mapping[str, Backlog]
    gathered: frozenset[str]
    """The runs of which something is gathered for the daemon above that no batch has yet."""


def read_facts(
    journal: Journal, registry: Registry, summary_of: Callable[[LiveRun], FoldSummary]
) -> JournalFacts:
    """Read the folds and the journal; on the recorder's thread."""
    stored = [run for run in list(registry.runs.values()) if run.live.row_id]
    folds = {}
    for run in stored:
        try:
            folds[run.run_id] = summary_of(run.live)
        except JournalError as error:
            # An ended run that cannot be read any more must not hide the others.
            log.warning("a run cannot be read back", run_id=run.run_id, reason=str(error))
    evicted = {run.run_id: journal.reclaimed(run.live.row_id).events for run in stored}
    backlogs = {run.run_id: journal.backlog(run.live.row_id) for run in stored}
    gathered = frozenset(run.run_id for run in stored if run.live.view.to_forward)
    return JournalFacts(journal.size_bytes(), journal.epoch, folds, evicted, backlogs, gathered)


def contents_status(totals: StoreTotals) -> ContentsStatus:
    """Return the content store's entry in the status."""
    return ContentsStatus(count=totals.contents, bytes=totals.bytes, arriving_bytes=totals.arriving_bytes)


def status_document(
    daemon: DaemonStatus, facts: JournalFacts, registry: Registry, pumps: PumpSet
) -> StatusDocument:
    """The whole document; on the event loop."""
    runs = tuple(
        _run_status(run, facts, pumps) for run in registry.runs.values() if run.run_id in facts.backlogs
    )
    return StatusDocument(daemon=daemon, runs=runs)


def summary_line(registry: Registry, pumps: PumpSet) -> str:
    """The whole in one line: how much goes on, and which backends do not."""
    running = [run for run in registry.runs.values() if run.running]
    connected = sum(s.connection is not None for run in running for s in run.current())
    line = f"{len(running)} running of {len(registry.runs)} runs, {connected} ranks connected"
    waiting = sorted(
        f"{name} of {run.run_id} {health.state.value}"
        for run in registry.runs.values()
        for name, health in pumps.health(run.live.row_id).items()
        if health.state is not DeliveryState.HEALTHY
    )
    more = [f"{len(waiting) - _WAITING_NAMED} more"] if len(waiting) > _WAITING_NAMED else []
    return "; ".join([line, *waiting[:_WAITING_NAMED], *more])


def _run_status(run: Run, facts: JournalFacts, pumps: PumpSet) -> RunStatusEntry:
    summary = facts.folds.get(run.run_id)
    view = run.live.view
    books = {name: count for name, count in summary.books.items() if name in _BOOKS} if summary else {}
    return RunStatusEntry(
        run_id=run.run_id,
        name=run.row.name,
        project=run.row.project,
        status=view.status,
        reason=view.reason or None,
        attempt=run.attempt,
        outdir=run.options.outdir,
        created=_time(run.row.created_ns),
        ended=_time(view.ended_ns) if view.ended_ns else None,
        world_size=(summary.world_size if summary else run.world_size) or None,
        primary_rank=run.options.primary_rank,
        ranks=_rank_statuses(run, summary),
        nodes=_node_statuses(run),
        forwarded=run.live.forwards,
        metrics=summary.metrics if summary else 0,
        books=Books(
            **books,
            duplicates=sum(stream.duplicates for stream in run.streams.values()),
            evicted_rows=facts.evicted_rows.get(run.run_id, 0),
        ),
        records=RecordsStatus(emitted=facts.backlogs[run.run_id].records + _gathered(run, facts)),
        backends=tuple(_backend_statuses(run, facts, pumps)),
        events=tuple(
            EventStatus(time=_time(time_ns), text=text)
            for time_ns, text in run.live.events[-limits.EVENTS_SHOWN_MAX :]
        ),
    )


_BOOKS = frozenset(
    {
        "received",
        "folded",
        "open",
        "late",
        "rejected",
        "gap_points",
        "dropped_points",
        "items",
        "items_left_out",
    }
)


def _backend_statuses(run: Run, facts: JournalFacts, pumps: PumpSet) -> list[BackendStatus]:
    """From the committed cursors, so that emitted = delivered + pending + set aside always holds."""
    healths = pumps.health(run.live.row_id)
    unusable = pumps.unusable(run.live.row_id)
    backlog = facts.backlogs[run.run_id]
    statuses = []
    for cursor in backlog.cursors:
        if is_files_lane(cursor.backend) and not backlog.last_files:
            continue  # of interest to runs that have files
        health = healths.get(cursor.backend)
        records, points = thinned_so_far(cursor.state)
        reason = unusable.get(cursor.backend) or (health.reason if health else "")
        state = health.state if health else DeliveryState.PAUSED if reason else DeliveryState.HEALTHY
        statuses.append(
            BackendStatus(
                name=cursor.backend,
                unit=_unit_of(cursor.backend),
                state=state.value,
                reason=reason or None,
                delivered=cursor.delivered_records - records,
                thinned=records,
                thinned_points=points,
                pending=backlog.pending(cursor)
                + (_gathered(run, facts) if cursor.backend == UPSTREAM else 0),
                set_aside=cursor.set_aside,
                set_aside_reason=(health.set_aside_reason if health else "") or None,
                location=health.location if health else None,
            )
        )
    return statuses


def _gathered(run: Run, facts: JournalFacts) -> int:
    """What is gathered for the daemon above and no batch yet, counted as the batch that it will be."""
    return int(run.run_id in facts.gathered)


def _node_statuses(run: Run) -> tuple[NodeStatus, ...]:
    now = time.monotonic()
    return tuple(
        NodeStatus(
            host=stream.host,
            pid=stream.pid,
            state="live" if stream.connection is not None else "disconnected",
            next_sequence=stream.next_sequence,
            last_seen_s=round(now - stream.last_seen_s, 3),
        )
        for stream in run.streams.values()
        if stream.is_node
    )


def _unit_of(cursor: str) -> str:
    if is_files_lane(cursor):
        return "items"
    return "batches" if backend_of(cursor) == UPSTREAM else "records"


def _rank_statuses(run: Run, summary: FoldSummary | None) -> tuple[RankStatus, ...]:
    """Those that came, and those that have not: these are expected, until they count as absent."""
    gone = summary.gone if summary else {}
    here = [_rank_status(stream, summary) for stream in run.current()]
    # Of a run that is only forwarded the other ranks are at other nodes.
    absent = [] if run.live.forwards else run.missing()
    missing = [RankStatus(rank=rank, state=gone.get(rank, "expected")) for rank in absent]
    ranks = sorted((*here, *missing), key=lambda status: status.rank)
    return tuple(ranks[:_RANKS_SHOWN_MAX])


def _rank_status(stream: Stream, summary: FoldSummary | None) -> RankStatus:
    rank = stream.rank
    return RankStatus(
        rank=rank,
        state=_rank_state(stream, summary),
        host=stream.host,
        pid=stream.pid,
        last_step=summary.last_step.get(rank) if summary else None,
        next_sequence=stream.next_sequence,
        last_seen_s=round(time.monotonic() - _seen_s(stream), 3),
        exit_code=summary.exit_codes.get(rank) if summary else None,
        dropped_points=summary.dropped_points.get(rank, 0) if summary else 0,
    )


def _seen_s(stream: Stream) -> float:
    """When it was heard of last; a rank that is connected to a node's daemon, when its node was."""
    relayed = stream.connection
    if not isinstance(relayed, RelayedSession) or relayed.node is None:
        return stream.last_seen_s
    return max(stream.last_seen_s, relayed.node.last_seen_s)


def _rank_state(stream: Stream, summary: FoldSummary | None) -> str:
    gone = summary.gone.get(stream.rank) if summary else None
    if gone is not None:
        return gone
    if summary and stream.rank in summary.lagging:
        return "lagging"
    return "live" if stream.connection is not None else "disconnected"


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, tz=timezone.utc).isoformat(timespec="milliseconds")
