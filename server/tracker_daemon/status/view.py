"""The status document for people: tables for the terminal, lines for a run's end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tracker_daemon.status.document import (
    BackendStatus,
    Books,
    DaemonStatus,
    EventStatus,
    RankStatus,
    RunStatusEntry,
    StatusDocument,
    seconds_of,
)

RANKS_SHOWN_MAX = 16
"""The healthy ranks, and the expected ones, that are shown one by one; the rest are counted in a line."""
EVENTS_SHOWN = 8
NODES_NAMED = 8
GOOD_RANK_STATES = frozenset({"live", "finished"})
STYLES = {
    "live": "green",
    "healthy": "green",
    "RUNNING": "green",
    "FINISHED": "green",
    "finished": "dim",
    "retrying": "yellow",
    "behind": "yellow",
    "disconnected": "yellow",
    "lagging": "yellow",
    "expected": "yellow",
    "absent": "red",
    "lost": "red",
    "paused": "red",
    "FAILED": "red",
}


def render(document: StatusDocument) -> RenderableType:
    """Return the whole document for a terminal."""
    parts: list[RenderableType] = [_daemon_line(document.daemon)]
    if not document.runs:
        parts.append(Text("No run yet: no rank has connected."))
    for run in document.runs:
        parts += [Text(""), *_run(run)]
    return Group(*parts)


def summary(document: StatusDocument, since_s: float = 0.0) -> list[str]:
    """Return the lines for the end of each run: one for the run, then one per backend and per problem.

    Runs that had ended before ``since_s`` (seconds since the epoch) are left out.
    """
    runs = [run for run in document.runs if run.ended is None or seconds_of(run.ended) >= since_s]
    return [line for run in runs for line in _run_summary(run)]


def backlog(document: StatusDocument) -> str:
    """Return what is pending by backend, as "12,000 records to mlflow, 300 to wandb"; "" for nothing."""
    pending: Counter[str] = Counter()
    units = {}
    for run in document.runs:
        pending.update({backend.name: backend.pending for backend in run.backends})
        units.update({backend.name: backend.unit for backend in run.backends})
    behind = [(name, count) for name, count in sorted(pending.items()) if count]
    parts = [f"{count:,} to {name}" for name, count in behind]
    return ", ".join(parts).replace(" to ", f" {units[behind[0][0]]} to ", 1) if behind else ""


def size(count: int) -> str:
    """Format ``count`` bytes with a binary unit."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def duration(seconds: float) -> str:
    """Format ``seconds`` in the two largest units that are not zero."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02d} h"


# ---- tables --------------------------------------------------------------------------------------


def _daemon_line(daemon: DaemonStatus) -> Text:
    parts = [
        f"tracker-daemon {daemon.version}",
        f"pid {daemon.pid} on {daemon.host}",
        f"up {duration(daemon.uptime_s)}",
        f"journal {size(daemon.journal_bytes)} in {daemon.state_dir}",
        "at " + ", ".join(daemon.endpoints),
    ]
    if daemon.epoch > 1:
        parts.append(f"epoch {daemon.epoch}")
    if daemon.draining:
        parts.append("draining")
    return Text(" · ".join(parts))


def _run(run: RunStatusEntry) -> Iterator[RenderableType]:
    title = Text(f"{run.name or run.run_id}", style="bold")
    title.append(f"  {run.project}  {run.run_id}  attempt {run.attempt}  ", style="not bold")
    title.append(run.status, style=STYLES.get(run.status, ""))
    if run.reason:
        title.append(f" ({run.reason})", style="not bold")
    yield title
    recorded = f"{run.metrics:,} metrics, {run.records.emitted:,} records in {run.directory or run.outdir}"
    yield Text(_recorded(run) if run.forwarded else recorded)
    yield Text(_books_line(run.books))
    if run.nodes:
        yield Text(_nodes_line(run))
    yield _ranks(run)
    if run.backends:
        yield _backends(run.backends)
        yield from _backend_troubles(run.backends)
    yield from (_event(event) for event in run.events[-EVENTS_SHOWN:])


def _books_line(books: Books) -> str:
    always = [f"{books.received:,} values received", f"{books.folded:,} folded", f"{books.open:,} open"]
    troubles = {
        "late": books.late,
        "rejected": books.rejected,
        "lost in gaps": books.gap_points,
        "dropped by clients": books.dropped_points,
        "duplicates": books.duplicates,
        "rows of history evicted": books.evicted_rows,
    }
    return ", ".join(always + [f"{count:,} {what}" for what, count in troubles.items() if count])


def _nodes_line(run: RunStatusEntry) -> str:
    # By host: a restarted daemon may have a new stream beside its former one.
    hosts = {node.host for node in run.nodes}
    away = sorted(hosts.difference(node.host for node in run.nodes if node.state == "live"))
    line = f"forwarded by {len(hosts):,} node{'' if len(hosts) == 1 else 's'}"
    if not away or run.ended is not None:
        return line
    more = f" and {len(away) - NODES_NAMED:,} more" if len(away) > NODES_NAMED else ""
    return f"{line}, of which {len(away):,} not connected: {', '.join(away[:NODES_NAMED])}{more}"


def _ranks(run: RunStatusEntry) -> Table:
    table = Table("rank", "state", "host", "pid", "step", "seen", "exit", "dropped", box=None, pad_edge=False)
    shown, hidden = _chosen(run.ranks)
    for rank in shown:
        table.add_row(*_rank_row(rank))
    for what, count in hidden.items():
        table.add_row("…", f"{count:,} more {what}")
    return table


def _chosen(ranks: Iterable[RankStatus]) -> tuple[list[RankStatus], dict[str, int]]:
    """Choose the ranks to show one by one; return them, and the number of the others by kind."""
    shown, hidden, seen = [], Counter[str](), Counter[str]()
    for rank in ranks:
        kind = "expected" if rank.state == "expected" else "in good order" if _in_good_order(rank) else ""
        seen[kind] += 1
        if kind and seen[kind] > RANKS_SHOWN_MAX:
            hidden[kind] += 1
        else:
            shown.append(rank)
    return shown, hidden


def _in_good_order(rank: RankStatus) -> bool:
    return rank.state in GOOD_RANK_STATES and not rank.exit_code and not rank.dropped_points


def _rank_row(rank: RankStatus) -> list[RenderableType]:
    return [
        str(rank.rank),
        Text(rank.state, style=STYLES.get(rank.state, "")),
        escape(rank.host),
        str(rank.pid or ""),
        "" if rank.last_step is None else str(rank.last_step),
        "" if rank.last_seen_s is None else f"{duration(rank.last_seen_s)} ago",
        "" if rank.exit_code is None else str(rank.exit_code),
        f"{rank.dropped_points:,}" if rank.dropped_points else "",
    ]


def _backends(backends: tuple[BackendStatus, ...]) -> Table:
    table = Table("backend", "state", "delivered", "pending", "set aside", box=None, pad_edge=False)
    table.add_column("where", overflow="fold")
    for backend in backends:
        state = Text(backend.state, style=STYLES.get(backend.state, ""))
        counts = (f"{backend.delivered:,}", f"{backend.pending:,}", f"{backend.set_aside:,}")
        table.add_row(escape(backend.name), state, *counts, escape(backend.location or ""))
    return table


def _backend_troubles(backends: tuple[BackendStatus, ...]) -> Iterator[Text]:
    """Yield problems on lines of their own, where they are not cut off."""
    for backend in backends:
        if backend.reason:
            line = Text(f"{backend.name} is ", style="default").append(
                backend.state, style=STYLES.get(backend.state, "")
            )
            yield line.append(f": {backend.reason}")
        if backend.set_aside_reason:
            yield Text(f"{backend.name} has set aside: {backend.set_aside_reason}")


def _event(event: EventStatus) -> Text:
    return Text(f"{event.time}  {event.text}")


# ---- lines ---------------------------------------------------------------------------------------


def _run_summary(run: RunStatusEntry) -> Iterator[str]:
    reason = f" ({run.reason})" if run.reason else ""
    name = f"{run.project}/{run.name or run.run_id}" if run.project else run.name or run.run_id
    yield f"run {name}: {run.status}{reason}, {_recorded(run)}"
    for backend in run.backends:
        yield f"  {backend.name}: {_backend_summary(backend)}"
    states = Counter(rank.state for rank in run.ranks if rank.state not in GOOD_RANK_STATES)
    if states:
        yield "  ranks: " + ", ".join(f"{count:,} {state}" for state, count in sorted(states.items()))
    lost = run.books.dropped_points + run.books.gap_points
    if lost:
        yield f"  {lost:,} values were dropped by clients whose buffers were full"
    if run.books.rejected:
        yield f"  {run.books.rejected:,} values were rejected; last-status.json has the reasons"


def _recorded(run: RunStatusEntry) -> str:
    metrics = f"{run.metrics:,} metric{'' if run.metrics == 1 else 's'}"
    if run.forwarded:
        return f"{run.records.emitted:,} batches of {metrics} for the root"
    return f"{run.records.emitted:,} records of {metrics}"


def _backend_summary(backend: BackendStatus) -> str:
    parts = [f"{backend.delivered:,} delivered"]
    if backend.pending:
        parts.append(f"{backend.pending:,} pending")
    if backend.thinned_points:
        parts.append(f"{backend.thinned_points:,} values thinned out")
    if backend.set_aside:
        reason = f" ({backend.set_aside_reason})" if backend.set_aside_reason else ""
        parts.append(f"{backend.set_aside:,} set aside{reason}")
    trouble = f" [{backend.state}: {backend.reason}]" if backend.reason else ""
    where = f" → {backend.location}" if backend.location else ""
    return ", ".join(parts) + trouble + where
