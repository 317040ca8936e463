"""The state of one stream in a run's fold: its rank, its dictionary of names, and its counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tracker_daemon.aggregation.shared.placement import Plan

NODE = -1
"""In place of a rank: the stream is that of a node's daemon, which forwards its ranks' values."""


@dataclass(slots=True, eq=False)
class StreamFold:
    """The state of one stream in the fold. ``plans`` and ``known`` are caches and not part of the state.

    ``plans`` are by attempt and keys, since a node's stream continues through all of a run's attempts.
    """

    rank: int
    attempt: int
    names: list[str]
    dropped_points: int = 0
    plans: dict[tuple[int, tuple[int, ...]], Plan] = field(default_factory=dict)
    known: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.known = set(self.names)

    @property
    def is_node(self) -> bool:
        """True if the stream is that of a node's daemon, and not of a rank."""
        return self.rank == NODE

    def belongs_to(self, attempt: int) -> bool:
        """Return True if the stream is that of a rank, in this attempt."""
        return self.attempt == attempt and not self.is_node

    def add_names(self, names: Iterable[str]) -> None:
        """Append new names: a batch that is sent again may follow a Hello that has its names."""
        for name in names:
            if name not in self.known:
                self.known.add(name)
                self.names.append(name)

    def names_of(self, keys: tuple[int, ...]) -> tuple[str, ...] | None:
        """Return the metrics of a block; None if the dictionary has no such names."""
        return tuple(self.names[key] for key in keys) if max(keys) < len(self.names) else None
