"""What a fold says of itself, for the status document."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tracker_daemon.aggregation.fold import RunFold


@dataclass(frozen=True, slots=True)
class FoldSummary:
    """The books, and how each rank stands in the fold."""

    books: dict[str, int]
    records: int
    metrics: int
    world_size: int
    last_step: dict[int, int]
    gone: dict[int, str]
    lagging: frozenset[int]
    exit_codes: dict[int, int]
    dropped_points: dict[int, int]


def run_summary(fold: RunFold) -> FoldSummary:
    """Read a fold; on the recorder's thread only."""
    counts: dict[str, Any] = asdict(fold.books)
    for name in ("late_by_rank", "warned", "records"):
        del counts[name]
    attempt = fold.attempt
    return FoldSummary(
        {**counts, "open": attempt.open_points()},
        fold.books.records,
        len(attempt.place_of),
        attempt.membership.world_size,
        dict(attempt.last_step),
        dict(attempt.membership.gone),
        frozenset(attempt.lagging),
        dict(attempt.membership.exit_codes),
        {s.rank: s.dropped_points for s in fold.streams.values() if s.attempt == attempt.number},
    )
