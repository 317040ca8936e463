"""The status of a run's ranks and of the nodes that forward the run."""

from __future__ import annotations

import time

from tracker_daemon.aggregation.shared.fold import FoldSummary
from tracker_daemon.ingest.nodes import RelayedSession
from tracker_daemon.runs.run import Run, Stream
from tracker_daemon.status.document import NodeStatus, RankStatus

_RANKS_SHOWN_MAX = 20_000


def node_statuses(run: Run) -> tuple[NodeStatus, ...]:
    """Return the status of the nodes' daemons that forward the run here."""
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


def rank_statuses(run: Run, summary: FoldSummary | None) -> tuple[RankStatus, ...]:
    """Return the status of admitted and of missing ranks; missing ones are expected until they are absent."""
    gone = summary.gone if summary else {}
    here = [_rank_status(stream, summary) for stream in run.current()]
    # The missing ranks of a forwarded run are at other nodes.
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
    """Return the monotonic time of the last contact; with a rank of a node, also of that with its node."""
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
