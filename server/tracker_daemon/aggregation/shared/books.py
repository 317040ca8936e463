"""The books of one run: counts of received values, by what happened to them.

At all times ``received = folded + open + late + rejected``. Values that never entered the fold (duplicates,
gaps, evicted history, the client's own drops) are counted apart.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from tracker_protocol import limits


@dataclass(slots=True)
class Books:
    """Counts of values ("points")."""

    received: int = 0
    folded: int = 0
    late: int = 0
    rejected: int = 0
    rejected_batches: int = 0
    gap_points: int = 0
    dropped_points: int = 0
    records: int = 0
    items: int = 0
    """Items passed on."""
    items_left_out: int = 0
    """Items of ranks whose items are not recorded, and of attempts that ended long ago."""
    late_by_rank: dict[int, int] = field(default_factory=dict)
    warned: set[Hashable] = field(default_factory=set)

    def count_late(self, rank: int, points: int) -> None:
        """Count values that arrived after their cell had closed."""
        if not points:
            return
        self.late += points
        self.late_by_rank[rank] = self.late_by_rank.get(rank, 0) + points

    def count_unplaced(self, notices: list[str], rank: int, name: str, step: int, points: int) -> None:
        """Count values that no aggregate has, since the rank logged the metric too often or too far back."""
        self.count_late(rank, points)
        self.warn_once(
            notices,
            ("occurrences", name, rank),
            f"rank {rank} logged {name!r} at step {step} more than {limits.OCCURRENCES_PER_STEP_MAX} times, "
            f"or its steps went back more than {limits.OCCURRENCE_RUNS_MAX} times; further such values are "
            "in no aggregate",
        )

    def warn_once(self, notices: list[str], about: Hashable, text: str) -> None:
        """Add ``text`` to ``notices``, unless there was a notice ``about`` the same thing before."""
        if about not in self.warned and len(self.warned) < _WARNINGS_MAX:
            self.warned.add(about)
            notices.append(text)


_WARNINGS_MAX = 1_000
