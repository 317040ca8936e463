"""The status document, put together from the daemon's parts."""

from __future__ import annotations

from datetime import datetime, timezone

from tracker_daemon.contents.store import StoreTotals
from tracker_daemon.delivery.health import DeliveryState
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Run
from tracker_daemon.status.backends import backend_statuses, open_batches
from tracker_daemon.status.document import (
    Books,
    ContentsStatus,
    DaemonStatus,
    EventStatus,
    RecordsStatus,
    RunStatusEntry,
    StatusDocument,
)
from tracker_daemon.status.facts import JournalFacts
from tracker_daemon.status.ranks import node_statuses, rank_statuses
from tracker_protocol import limits

_WAITING_NAMED = 4
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


def contents_status(totals: StoreTotals) -> ContentsStatus:
    """Return the content store's entry in the status."""
    return ContentsStatus(count=totals.contents, bytes=totals.bytes, arriving_bytes=totals.arriving_bytes)


def status_document(
    daemon: DaemonStatus, facts: JournalFacts, registry: Registry, pumps: PumpSet
) -> StatusDocument:
    """Return the whole document. On the event loop."""
    runs = tuple(
        _run_status(run, facts, pumps) for run in registry.runs.values() if run.run_id in facts.backlogs
    )
    return StatusDocument(daemon=daemon, runs=runs)


def summary_line(registry: Registry, pumps: PumpSet) -> str:
    """Return one line about the daemon: its runs and ranks, and the backends that are not healthy."""
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
        directory=run.options.directory,
        created=_time(run.row.created_ns),
        ended=_time(view.ended_ns) if view.ended_ns else None,
        world_size=(summary.world_size if summary else run.world_size) or None,
        primary_rank=run.options.primary_rank,
        ranks=rank_statuses(run, summary),
        nodes=node_statuses(run),
        forwarded=run.live.forwards,
        metrics=summary.metrics if summary else 0,
        books=Books(
            **books,
            duplicates=sum(stream.duplicates for stream in run.streams.values()),
            evicted_rows=facts.evicted_rows.get(run.run_id, 0),
        ),
        records=RecordsStatus(emitted=facts.backlogs[run.run_id].records + open_batches(run, facts)),
        backends=tuple(backend_statuses(run, facts, pumps)),
        events=tuple(
            EventStatus(time=_time(time_ns), text=text)
            for time_ns, text in run.live.notices[-limits.EVENTS_SHOWN_MAX :]
        ),
    )


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, tz=timezone.utc).isoformat(timespec="milliseconds")
