"""A fold: the state of one run, which only events change. The base of both kinds, and the results of a tick.

``root.fold`` aggregates events to records; ``node.fold`` gathers them for a root. A replay of the same events
in the same ticks gives the same state. Both folds can be saved as bytes. Each has some events of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from tracker_daemon.aggregation.shared.attempt import Attempt
from tracker_daemon.aggregation.shared.automatic_steps import AutomaticSteps
from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.shared.placement import Plan
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.shared.stream import StreamFold
from tracker_daemon.aggregation.values.batch import DecodedBatch, ForwardedValues, Rows, TextRows
from tracker_daemon.aggregation.values.item import Item
from tracker_daemon.aggregation.values.record import RecordBlock

OLDER_ATTEMPTS_REMEMBERED = 4
AttemptT = TypeVar("AttemptT")


@dataclass(frozen=True, slots=True, eq=False)
class TickOutput:
    """The output of a tick, in order of emission: configurations, records, items; and notices."""

    configs: tuple[str, ...] = ()
    blocks: tuple[RecordBlock, ...] = ()
    notices: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()
    config_changes: tuple[dict[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    """Those notices that the primary rank's user must see at once."""
    forwarded: ForwardedValues | None = None
    """At a node, instead of configurations, records and items: values for the root."""
    later_configs: tuple[int, ...] = ()
    """The positions in ``configs`` of those that were logged after the set-up."""


@dataclass(frozen=True, slots=True)
class Activity:
    """The things that a fold waits for between two ticks."""

    learning: bool
    """True if flushes matter."""
    open_rows: int
    open_bytes: int
    world_size: int
    to_forward: bool = False
    """True if a FORWARD event would have an output."""
    deadline_ns: int | None = None
    """The time at which something changes without an event; None if there is none."""


@dataclass(frozen=True, slots=True)
class WaitingRows:
    """The rows of a rank that are not emitted: their ``steps``, and the ``ranks`` for which they wait."""

    steps: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """The state of a run that no rank is left in.

    ``lost_ns`` is the time at which a rank was last lost, while one is. ``outcome`` is the run's status and
    its reason, if the root has decided that.
    """

    lost_ns: int | None = None
    outcome: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class FoldSummary:
    """The books, and the state of each rank of the current attempt in the fold."""

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
    exited: frozenset[int] = frozenset()
    """The ranks that ended without a call of ``finish()``."""
    vanished: frozenset[int] = frozenset()
    """Those of the lost ranks whose processes were seen to end."""
    command_status: int = 0
    """The exit status of the launch's command, once it has ended."""


class Fold(ABC):
    """The state of one run. Times are those of the ticks, in ns since the epoch."""

    attempt: Attempt[Any]
    """The current attempt."""
    steps: AutomaticSteps

    def __init__(self, rules: Rules, books: Books | None = None) -> None:
        self.rules = rules
        self.books = books or Books()
        self.notices: list[str] = []
        self.streams: dict[bytes, StreamFold] = {}

    # ---- events ----------------------------------------------------------------------------------

    def hello(
        self,
        stream: bytes,
        rank: int,
        world_size: int,
        attempt: int,
        names: tuple[str, ...],
        now_ns: int,  # noqa: ARG002 - a root's fold waits for ranks to join
    ) -> None:
        """Note that a stream connects, for the first time or again; ``names`` is its whole dictionary."""
        if attempt > self.attempt.number:
            self.open_attempt(attempt, world_size)
        known = self.streams.get(stream)
        if known is None:
            self.streams[stream] = StreamFold(rank, attempt, list(names))
        else:
            # Batches with names may have been rejected, dropped or lost; the client still knows all.
            known.add_names(names)
        if attempt == self.attempt.number:
            self.attempt.join(rank, world_size)

    @abstractmethod
    def open_attempt(self, number: int, world_size: int) -> None:
        """Begin an attempt: a rank has started again."""

    @abstractmethod
    def batch(self, stream: bytes, batch: DecodedBatch, now_ns: int) -> None:
        """Apply a batch of a stream whose Hello was applied before."""

    @abstractmethod
    def flushed(self, stream: bytes, now_ns: int) -> None:
        """Note that a stream has sent everything that it logged, with nothing new since its last flush."""

    @abstractmethod
    def depart(self, rank: int, how: str, now_ns: int) -> None:
        """Note that a rank is "lost" or "absent"."""

    @abstractmethod
    def restart_timers(self, now_ns: int) -> None:
        """Start every wait again: the daemon has started. Exit statuses of before can be read no more."""

    def gap(self, points: int) -> None:
        """Count values that a client dropped because it could not keep them."""
        self.books.gap_points += points
        self.books.dropped_points += points

    def rejected(self) -> None:
        """Count a batch that could not be decoded."""
        self.books.rejected_batches += 1

    @abstractmethod
    def close_oldest(self, rows: int) -> None:
        """Release the memory of the oldest ``rows``: too much is open."""

    @abstractmethod
    def vanish(self, rank: int, now_ns: int) -> None:
        """Note that a rank's process was seen to end, without a word from it: the rank is lost."""

    @abstractmethod
    def exit_status(self, rank: int, code: int | None) -> None:
        """Note the exit status of a rank that has ended without ``finish()``; None if it cannot be known."""

    @abstractmethod
    def end(self, status: int, own: Collection[int] = (), reported: Collection[int] = ()) -> None:
        """End the job, whose command ended with ``status``.

        ``own`` are the ranks whose process was the command itself. ``reported`` are those whose launchers
        report every failure in the command's status. The other ranks that did not finish are lost.
        """

    # ---- the tick --------------------------------------------------------------------------------

    @abstractmethod
    def settle(self, now_ns: int) -> TickOutput:
        """Decide, and return the tick's output."""

    # ---- state -----------------------------------------------------------------------------------

    def over(self) -> bool:
        """Return True if the run has no rank left."""
        return self.ending() is not None

    @abstractmethod
    def ending(self) -> Ending | None:
        """Return how the run ends; None while a rank is left."""

    @abstractmethod
    def activity(self) -> Activity:
        """Return what the fold waits for."""

    @abstractmethod
    def summary(self) -> FoldSummary:
        """Return the state of the books and the ranks."""

    def waiting_rows(self, rank: int) -> WaitingRows:  # noqa: ARG002 - a node emits nothing
        """Return the rows of ``rank`` that are not emitted yet."""
        return WaitingRows()

    def next_automatic_step(self, rank: int, attempt: int) -> int:
        """Return the next automatic step of a rank that joins, or returns to, ``attempt``."""
        return self.steps.furthest() if attempt > self.attempt.number else self.steps.of_rank(rank)

    def names_of(self, stream: bytes) -> list[str]:
        """Return a stream's dictionary; empty for an unknown stream."""
        known = self.streams.get(stream)
        return known.names if known is not None else []

    def counts(self, open_points: int) -> dict[str, int]:
        """Return the books as counts by name, with the values that are still open."""
        counts: dict[str, Any] = asdict(self.books)
        for name in ("late_by_rank", "warned", "records"):
            del counts[name]
        return {**counts, "open": open_points}

    def dropped_by_rank(self) -> dict[int, int]:
        """Return the values dropped so far, by rank of the current attempt."""
        number = self.attempt.number
        return {s.rank: s.dropped_points for s in self.streams.values() if s.belongs_to(number)}

    # ---- for both kinds --------------------------------------------------------------------------

    def count_dropped(self, source: StreamFold, dropped_points: int) -> bool:
        """Count the values that a stream's client has dropped so far; return True if there are more."""
        more = dropped_points - source.dropped_points
        if more <= 0:
            return False
        self.books.dropped_points += more
        source.dropped_points = dropped_points
        return True

    def known_names(
        self, source: StreamFold, dictionary: StreamFold, block: Rows | TextRows
    ) -> tuple[str, ...] | None:
        """Return the names of a block's metrics; without names the block is rejected."""
        names = dictionary.names_of(block.keys)
        if names is None:
            self.reject_unnamed(block.points, f"rank {source.rank}")
        return names

    def reject_unnamed(self, points: int, who: str) -> None:
        """Reject values whose batch was checked against a dictionary other than the one that arrived."""
        text = f"{who} sent values of metrics that it has not named; they are not recorded"
        self.reject(points, ("unnamed", who), text)

    def reject(self, points: int, about: Hashable, text: str) -> None:
        """Count rejected values, and warn once ``about`` them."""
        self.books.rejected += points
        self.books.warn_once(self.notices, about, text)


def plan_of(dictionary: StreamFold, attempt: Attempt[Any], keys: tuple[int, ...]) -> Plan | None:
    """Return the places of values of ``keys`` in ``attempt``; None if the dictionary has no such names."""
    plan = dictionary.plans.get((attempt.number, keys))
    if plan is None and (names := dictionary.names_of(keys)) is not None:
        plan = dictionary.plans[attempt.number, keys] = attempt.plan(names)
    return plan


def forget_oldest(older: dict[int, AttemptT]) -> None:
    """Remove the attempts that ended first, by number, down to OLDER_ATTEMPTS_REMEMBERED."""
    while len(older) > OLDER_ATTEMPTS_REMEMBERED:
        del older[min(older)]
