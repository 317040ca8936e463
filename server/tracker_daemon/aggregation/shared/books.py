"""The books of one run: what was received and what became of it.

At all times ``received = folded + open + late + rejected``; what never entered the fold
(duplicates, gaps, evicted history, the client's own drops) is counted apart.
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
    """Items of ranks whose items are not recorded, and of attempts that are long over."""
    late_by_rank: dict[int, int] = field(default_factory=dict)
    warned: set[Hashable] = field(default_factory=set)

    def count_late(self, rank: int, points: int) -> None:
        """Values that came after their cell had closed."""
        self.late += points
        self.late_by_rank[rank] = self.late_by_rank.get(rank, 0) + points

    def reject_repeats(self, notices: list[str], rank: int, name: str, step: int, points: int) -> None:
        """A rank has logged a metric too often at one step: these values are one time too many."""
        self.rejected += points
        self.warn_once(
            notices,
            ("occurrences", name),
            f"rank {rank} logged {name!r} more than {limits.OCCURRENCES_PER_STEP_MAX} times at step {step}; "
            "the further values are not recorded. Give each a step of its own, or another name.",
        )

    def warn_once(self, notices: list[str], about: Hashable, text: str) -> None:
        """Add ``text`` to ``notices`` unless that was done for the same thing before."""
        if about not in self.warned and len(self.warned) < _WARNINGS_MAX:
            self.warned.add(about)
            notices.append(text)


_WARNINGS_MAX = 1_000
