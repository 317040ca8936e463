"""A histogram, as it is sent to the backends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

KIND = "histogram"


@dataclass(frozen=True)
class Histogram:
    """A histogram of n bins: ``counts[i]`` values lie between ``edges[i]`` and ``edges[i + 1]``.

    There are n + 1 edges; or two, the outer edges of n bins of equal width.
    """

    edges: Sequence[float]
    counts: Sequence[float]

    def __len__(self) -> int:
        return len(self.edges) + len(self.counts)

    def document(self) -> str:
        """Encode the histogram as JSON: ``{"edges": [...], "counts": [...]}``.

        Raises:
            ValueError: an edge or a count is not finite.
        """
        return json.dumps(
            {"edges": list(self.edges), "counts": list(self.counts)}, separators=(",", ":"), allow_nan=False
        )
