"""The interface of a fold, and the results of a tick.

There are two kinds. ``root.fold`` aggregates events to records; ``node.fold`` gathers them for a root. Only
events change their state: a replay of the same events in the same ticks gives the same state. Both can be
saved as bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tracker_daemon.aggregation.shared.batch import DecodedBatch, ForwardedValues
from tracker_daemon.aggregation.shared.item import Item
from tracker_daemon.aggregation.shared.record import RecordBlock


@dataclass(frozen=True, slots=True, eq=False)
class TickOutput:
    """What a tick brought forth, in order of emission: configurations, records, items; and notices."""

    configs: tuple[str, ...] = ()
    blocks: tuple[RecordBlock, ...] = ()
    notices: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()
    config_changes: tuple[dict[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    """Those of the notices that the primary rank's user is to see at once."""
    forwarded: ForwardedValues | None = None
    """At a node, instead of configurations, records and items: values for the root."""


@dataclass(frozen=True, slots=True)
class Activity:
    """What is going on in a fold between two ticks."""

    learning: bool
    """Whether flushes matter."""
    open_rows: int
    open_bytes: int
    world_size: int
    to_forward: bool = False
    """Whether a cut would bring something forth."""


@dataclass(frozen=True, slots=True)
class FoldSummary:
    """The books, and how each rank of the current attempt stands in the fold."""

    books: dict[str, int]
    records: int
    metrics: int
    world_size: int
    attempt: int
    last_step: dict[int, int]
    gone: dict[int, str]
    lagging: frozenset[int]
    exit_codes: dict[int, int]
    dropped_points: dict[int, int]


class Fold(Protocol):
    """The state of one run. Times are those of the ticks, in ns since the epoch."""

    notices: list[str]

    # ---- events ----

    def hello(self, stream: bytes, rank: int, world_size: int, attempt: int, names: tuple[str, ...]) -> None:
        """A stream connects, for the first time or again; ``names`` is its whole dictionary."""

    def batch(self, stream: bytes, batch: DecodedBatch, now_ns: int) -> None:
        """Take in a batch of a stream that has said hello."""

    def flushed(self, stream: bytes, now_ns: int) -> None:
        """A stream without news says that all it logged has been sent."""

    def depart(self, rank: int, how: str, now_ns: int) -> None:
        """A rank is "lost" or "absent"."""

    def gap(self, points: int) -> None:
        """A client dropped what it could not keep."""

    def rejected(self) -> None:
        """A batch could not be decoded."""

    def restart_timers(self, now_ns: int) -> None:
        """The daemon has started again."""

    def close_oldest(self, rows: int) -> None:
        """Too much memory is open: let go of the oldest rows."""

    def end(self, exit_code: int) -> None:
        """The job is over: its exit code stands for the ranks that did not finish by themselves."""

    def cut(self, *, everything: bool) -> None:
        """What has been gathered is to be forwarded, or ``everything``, ranks that lag behind or not."""

    def ended_by_root(self, status: str, reason: str) -> None:
        """The daemon above says that the run has ended."""

    def want_flushes(self, *, wanted: bool) -> None:
        """The daemon above has to know of idle ranks' flushes, or no more."""

    def skip_ordinals(self, count: int) -> None:
        """The journal lost something: records get ordinals beyond what any backend can have."""

    # ---- the tick ----

    def settle(self, now_ns: int) -> TickOutput:
        """Decide, and hand over what the tick brought forth."""

    def next_deadline_ns(self) -> int | None:
        """When something would change though nothing arrives; None while nothing waits."""

    # ---- how it stands ----

    def over(self) -> bool:
        """Whether every rank has ended."""

    @property
    def lost_ns(self) -> int | None:
        """When a rank was last lost, while one is."""

    @property
    def outcome(self) -> tuple[str, str] | None:
        """The run's status and why, where another daemon has decided that."""

    def step_to_go_on_from(self, rank: int, attempt: int) -> int:
        """The automatic step that comes next for a rank that joins, or comes back to, ``attempt``."""

    def names_of(self, stream: bytes) -> Sequence[str]:
        """A stream's dictionary; empty for one that is unknown."""

    def activity(self) -> Activity:
        """What is going on."""

    def summary(self) -> FoldSummary:
        """How it stands."""
