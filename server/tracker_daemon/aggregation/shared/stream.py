"""What a run's fold knows of each stream: whose it is, its dictionary of names, and what it has counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tracker_daemon.aggregation.shared.placement import Plan

NODE = -1
"""In place of a rank: the stream is that of a node's daemon, which forwards what its ranks log."""


@dataclass(slots=True, eq=False)
class StreamFold:
    """What the fold knows of one stream. ``plans`` and ``known`` are caches and not part of the state.

    ``plans`` are by attempt and keys, since a node's stream goes on through all of a run's attempts.
    """

    rank: int
    attempt: int
    names: list[str]
    dropped_points: int = 0
    own_highs: dict[str, list[int]] = field(default_factory=dict)
    plans: dict[tuple[int, tuple[int, ...]], Plan] = field(default_factory=dict)
    known: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.known = set(self.names)

    @property
    def is_node(self) -> bool:
        """Whether a node's daemon forwards on it, and not a rank logs."""
        return self.rank == NODE

    def belongs_to(self, attempt: int) -> bool:
        """Whether it is a rank's, of that attempt."""
        return self.attempt == attempt and not self.is_node

    def add_names(self, names: Iterable[str]) -> None:
        """Append those that are new: a batch that is sent again may follow a Hello that has its names."""
        for name in names:
            if name not in self.known:
                self.known.add(name)
                self.names.append(name)

    def names_of(self, keys: tuple[int, ...]) -> tuple[str, ...] | None:
        """The metrics of a block; None where the dictionary has no such names."""
        return tuple(self.names[key] for key in keys) if max(keys) < len(self.names) else None
