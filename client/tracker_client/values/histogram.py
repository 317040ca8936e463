"""A histogram, as it travels to the backends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

KIND = "histogram"


@dataclass(frozen=True)
class Histogram:
    """How many values lie between each two neighbouring ``edges``.

    Two edges for more than one count are the ends of bins of equal width.
    """

    edges: Sequence[float]
    counts: Sequence[float]

    def __len__(self) -> int:
        return len(self.edges) + len(self.counts)

    def document(self) -> str:
        """As JSON."""
        return json.dumps(
            {"edges": list(self.edges), "counts": list(self.counts)}, separators=(",", ":"), allow_nan=False
        )
