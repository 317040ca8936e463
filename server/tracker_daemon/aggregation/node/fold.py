"""The fold of a run at a daemon that forwards to another: journalled events in, values for the root out.

    ranks' rows ──▶ gathering ──▶ contributions ┐
    texts, items, configurations ──▶ parts      ├──▶ at a cut: forwarded values
    steps, flushes ──▶ progress                 ┘

It decides nothing: whom a cell waits for, who is lost and when the run ends is the root's to say. What it
gathers leaves at *cuts*, which are events, and when a rank or the job ends; no clock is looked at. So
what is forwarded depends on the events and their ticks alone, and a replay forwards the same values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from enum import IntEnum
from typing import Any

from tracker_daemon.aggregation.node.cells import divide
from tracker_daemon.aggregation.node.dictionary import NodeDictionary
from tracker_daemon.aggregation.node.gathering import Gathering, Plan
from tracker_daemon.aggregation.node.rank_parts import RankParts
from tracker_daemon.aggregation.node.steps import NodeSteps
from tracker_daemon.aggregation.shared.batch import (
    DecodedBatch,
    ForwardedValues,
    NodeReport,
    Rows,
    TextRows,
)
from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.shared.contribution import Contribution, Progress
from tracker_daemon.aggregation.shared.fold import Activity, FoldSummary, TickOutput
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.shared.stream import StreamFold
from tracker_protocol import limits

_OLDER_ATTEMPTS_REMEMBERED = 4


class _Due(IntEnum):
    """What leaves at the tick's end."""

    NOTHING = 0
    RIPE = 1
    """Rows that are complete, or were there at the cut before, and all that is no row."""
    EVERYTHING = 2


class NodeFold:
    """The state of one run, as far as this node's ranks go."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.books = Books()
        self.notices: list[str] = []
        self.streams: dict[bytes, StreamFold] = {}
        self.names = NodeDictionary()
        self.parts = RankParts()
        self.steps = NodeSteps()
        self.window = 1
        """The number of the next cut."""
        self.gathering = self.new_gathering(1)
        self.older: dict[int, Gathering] = {}
        self.untold: list[str] = []
        """Notices for the root."""
        self.gap_points_told = 0
        self.ended: tuple[str, str] | None = None
        self.wants_flushes = False
        """Whether the root learns who reports a metric, and so has to know of idle ranks' flushes too."""
        self._due = _Due.NOTHING
        self._plans: dict[tuple[bytes, tuple[int, ...]], Plan] = {}  # a cache, and not part of the state

    def new_gathering(self, number: int) -> Gathering:
        """An attempt of which nothing has come yet."""
        return Gathering(number, self.rules, self.books, self.notices, self.names.admit)

    # ---- events ----------------------------------------------------------------------------------

    def hello(self, stream: bytes, rank: int, world_size: int, attempt: int, names: tuple[str, ...]) -> None:
        """A stream connects, for the first time or again; ``names`` is its whole dictionary."""
        if attempt > self.gathering.number:
            self._open_attempt(attempt, world_size)
        known = self.streams.get(stream)
        if known is None:
            self.streams[stream] = StreamFold(rank, attempt, list(names))
        else:
            # Batches with names may have been rejected, dropped or lost; the client still knows all.
            known.add_names(names)
        if attempt == self.gathering.number:
            self.gathering.joined(rank, world_size)

    def _open_attempt(self, number: int, world_size: int) -> None:
        """A rank has come again: nothing of the attempt before waits for more."""
        old = self.gathering
        self.older[old.number] = old
        self.gathering = self.new_gathering(number)
        self.gathering.world_size = world_size or old.world_size
        self.steps.open_attempt()
        self.ended = None

    def step_to_go_on_from(self, rank: int, attempt: int) -> int:
        """The automatic step that comes next for a rank that joins, or comes back to, ``attempt``."""
        if attempt > self.gathering.number:
            return self.steps.furthest()
        return self.steps.next_step.get(rank, self.steps.first_step)

    def batch(self, stream: bytes, batch: DecodedBatch, now_ns: int) -> None:  # noqa: ARG002 - no clock
        """Take in a batch of a stream that has said hello."""
        source = self.streams[stream]
        source.add_names(batch.names)
        self.books.received += batch.points
        self._count_dropped(stream, source, batch.dropped_points)
        gathering = self._gathering_of(source)
        if gathering is None:
            self.books.count_late(source.rank, batch.points)
            self.books.items_left_out += len(batch.items)
            return
        if batch.rows or batch.texts or batch.config or batch.items or batch.finish is not None:
            gathering.progress.heard(source.rank)
        for block in batch.rows:
            if block.own:
                self._own(stream, source, block, recorded=self.rules.records_items(source.rank))
            else:
                self._rows(stream, source, gathering, block)
        for texts in batch.texts:
            self._own(stream, source, texts, recorded=self._records(source.rank))
        self._standing(stream, source, gathering, batch)

    def _gathering_of(self, source: StreamFold) -> Gathering | None:
        current = source.attempt == self.gathering.number
        return self.gathering if current else self.older.get(source.attempt)

    def _records(self, rank: int) -> bool:
        return rank == self.rules.primary_rank or self.rules.records(rank)

    def _count_dropped(self, stream: bytes, source: StreamFold, dropped_points: int) -> None:
        if dropped_points > source.dropped_points:
            self.books.dropped_points += dropped_points - source.dropped_points
            source.dropped_points = dropped_points
            self.parts.add_dropped(stream, dropped_points)

    def _rows(self, stream: bytes, source: StreamFold, gathering: Gathering, block: Rows) -> None:
        plan = self._plans.get((stream, block.keys))
        if plan is None:
            names = source.names_of(block.keys)
            if names is None:
                self._reject_unnamed(source, block)
                return
            plan = self._plans[stream, block.keys] = gathering.plan(names)
            if plan.refused:
                self._warn_of_refused()
        if gathering is self.gathering and block.automatic_steps and plan.names:
            self.steps.compare(source.rank, plan.names, block.steps.tolist(), self.books, self.notices)
        gathering.contribute(source.rank, plan, block, self.window)

    def _reject_unnamed(self, source: StreamFold, block: Rows | TextRows) -> None:
        """The batch passed its check against a dictionary that is not the one that came to be."""
        self.books.rejected += len(block.keys) * len(block.steps)
        self.books.warn_once(
            self.notices,
            ("unnamed", source.rank),
            f"rank {source.rank} sent values of metrics that it has not named; they are not recorded",
        )

    def _warn_of_refused(self) -> None:
        self.books.warn_once(
            self.notices,
            "metrics",
            f"the ranks of this node log more than {limits.METRICS_PER_RUN_MAX} metrics, or their names take "
            f"more than {limits.HELLO_NAMES_MAX_BYTES} bytes; the further ones are not recorded",
        )

    def _own(self, stream: bytes, source: StreamFold, block: Rows | TextRows, *, recorded: bool) -> None:
        """Values that the root is to have as they are, or, where they are not recorded, not at all."""
        points = len(block.keys) * len(block.steps)
        names = source.names_of(block.keys)
        if names is None:
            self._reject_unnamed(source, block)
        elif not recorded:
            self.books.folded += points
        elif not all(map(self.names.admit, names)):
            self.books.rejected += points
            self._warn_of_refused()
        elif isinstance(block, Rows):
            self.parts.add_own_rows(stream, block)
        else:
            self.parts.add_texts(stream, block)

    def _standing(self, stream: bytes, source: StreamFold, gathering: Gathering, batch: DecodedBatch) -> None:
        """What a batch says beside its values."""
        rank = source.rank
        if batch.rows:
            latest = max(batch.rows, key=lambda block: int(block.times_ns[-1]))
            step = int(latest.steps[-1])
            gathering.progress.logged(rank, step, self.window)
            if gathering is self.gathering:
                self.steps.next_step[rank] = step + 1
        for document in batch.config:
            self.parts.add_config(stream, document)
        self._pass_on(stream, rank, batch)
        if batch.flushed:
            gathering.progress.flushed(rank, again=self.wants_flushes)
        if batch.finish is not None:
            self._finish(stream, gathering, rank, batch.finish)

    def _pass_on(self, stream: bytes, rank: int, batch: DecodedBatch) -> None:
        if not self.rules.records_items(rank):
            self.books.items_left_out += len(batch.items)
            return
        self.books.items += len(batch.items)
        for item in batch.items:
            self.parts.add_item(stream, item)

    def _finish(self, stream: bytes, gathering: Gathering, rank: int, exit_code: int) -> None:
        gathering.exit_codes[rank] = exit_code
        gathering.live.discard(rank)
        self.parts.add_end(stream, exit_code)
        self._due = _Due.EVERYTHING

    def flushed(self, stream: bytes, now_ns: int) -> None:  # noqa: ARG002 - no clock
        """A stream without news says that all it logged has been sent."""
        source = self.streams[stream]
        gathering = self._gathering_of(source)
        if gathering is not None:
            gathering.progress.flushed(source.rank, again=self.wants_flushes)

    def depart(self, rank: int, how: str, now_ns: int) -> None:  # noqa: ARG002 - the root says how
        """No row is incomplete for this rank."""
        self.gathering.live.discard(rank)

    def gap(self, points: int) -> None:
        """A client dropped what it could not keep."""
        self.books.gap_points += points
        self.books.dropped_points += points

    def rejected(self) -> None:
        """A batch could not be decoded."""
        self.books.rejected_batches += 1

    def restart_timers(self, now_ns: int) -> None:
        """There are none: what is gathered waits for cuts."""

    def close_oldest(self, rows: int) -> None:  # noqa: ARG002 - what is forwarded late is not lost
        """Too much memory is open: forward everything."""
        self._due = _Due.EVERYTHING

    def end(self, exit_code: int) -> None:
        """The job is over: its exit code stands for the ranks that did not finish by themselves."""
        gathering = self.gathering
        for stream, source in self.streams.items():
            if source.attempt == gathering.number and source.rank not in gathering.exit_codes:
                self._finish(stream, gathering, source.rank, exit_code)
        self._due = _Due.EVERYTHING

    def cut(self, *, everything: bool) -> None:
        """What has been gathered is to be forwarded, or ``everything``, ranks that lag behind or not."""
        self._due = max(self._due, _Due.EVERYTHING if everything else _Due.RIPE)

    def ended_by_root(self, status: str, reason: str) -> None:
        """The root says that the run has ended; what still comes of it is forwarded at once."""
        self.ended = status, reason

    def want_flushes(self, *, wanted: bool) -> None:
        """The root has to know of idle ranks' flushes, or no more."""
        self.wants_flushes = wanted

    def skip_ordinals(self, count: int) -> None:
        """Nothing here has an ordinal."""

    # ---- the tick --------------------------------------------------------------------------------

    def settle(self, now_ns: int) -> TickOutput:  # noqa: ARG002 - no clock
        """Hand over what the tick brought forth, and forward what is due."""
        notices = tuple(self.notices)
        self.untold.extend(notices)
        self.notices.clear()
        due = self._due
        if self.over() and self._has_news():
            due = _Due.EVERYTHING
        self._due = _Due.NOTHING
        forwarded = None if due is _Due.NOTHING else self._forward(everything=due is _Due.EVERYTHING)
        return TickOutput(notices=notices, forwarded=forwarded)

    def _forward(self, *, everything: bool) -> ForwardedValues:
        """Remove and return what is due; its order is that in which the dictionary gets its new names."""
        first_key = len(self.names.names)
        self.books.folded += self.parts.points
        parts = self.parts.take(self.names, self.streams)
        contributions = tuple(self._contributions(everything=everything))
        self.books.folded += sum(contribution.points for contribution in contributions)
        step_keys = self.steps.take(self.names, self.gathering.number)
        report = NodeReport(parts, contributions, tuple(self._progress()), step_keys, tuple(self.untold))
        self.untold.clear()
        new_names = tuple(self.names.names[first_key:])
        values = ForwardedValues(first_key, new_names, report, self._lost_points(), self.parts.take_ends())
        self.window += 1
        self._forget_oldest()
        return values

    def _contributions(self, *, everything: bool) -> Iterator[Contribution]:
        for gathering in self._gatherings():
            over = everything or gathering is not self.gathering
            for gathered in gathering.take(self.window, everything=over):
                yield from divide(gathering.number, gathered, self.names)

    def _gatherings(self) -> Iterator[Gathering]:
        yield from self.older.values()
        yield self.gathering

    def _progress(self) -> Iterator[Progress]:
        """Yield the progress of ranks that the root does not know yet, once their values were taken."""
        for gathering in self._gatherings():
            progress = gathering.progress.take(gathering.number, self.window, gathering.busy_ranks())
            if progress is not None:
                yield progress

    def _lost_points(self) -> int:
        """Return the values lost in gaps, in all, if the root does not know the number; else 0."""
        if self.books.gap_points == self.gap_points_told:
            return 0
        self.gap_points_told = self.books.gap_points
        return self.gap_points_told

    def _forget_oldest(self) -> None:
        while len(self.older) > _OLDER_ATTEMPTS_REMEMBERED:
            del self.older[min(self.older)]

    def next_deadline_ns(self) -> None:
        """Nothing changes while nothing arrives."""

    # ---- how it stands ---------------------------------------------------------------------------

    def over(self) -> bool:
        """Whether the root has said that the run has ended."""
        return self.ended is not None

    @property
    def lost_ns(self) -> None:
        """The root says who is lost."""

    @property
    def outcome(self) -> tuple[str, str] | None:
        """The run's status and why, once the root has said so."""
        return self.ended

    def names_of(self, stream: bytes) -> list[str]:
        """A rank's stream's dictionary; empty for one that is unknown."""
        known = self.streams.get(stream)
        return known.names if known is not None else []

    def dictionary(self) -> list[str]:
        """The node's own: all metrics that it has named to the root, by their keys."""
        return self.names.names

    def _has_news(self) -> bool:
        told = self.books.gap_points == self.gap_points_told
        quiet = told and not (self.parts or self.steps.untold or self.untold)
        return not quiet or any(gathering.waits() for gathering in self._gatherings())

    def activity(self) -> Activity:
        """What is going on."""
        gathering, news = self.gathering, self._has_news()
        return Activity(
            news or self.wants_flushes or not gathering.live <= gathering.progress.idle,
            sum(one.open_rows() for one in self._gatherings()),
            self.parts.bytes + sum(one.open_bytes() for one in self._gatherings()),
            gathering.world_size,
            news,
        )

    def summary(self) -> FoldSummary:
        """How it stands."""
        counts: dict[str, Any] = asdict(self.books)
        for name in ("late_by_rank", "warned", "records"):
            del counts[name]
        points = self.parts.points + sum(one.open_points() for one in self._gatherings())
        gathering = self.gathering
        return FoldSummary(
            {**counts, "open": points},
            0,
            len(gathering.place_of),
            gathering.world_size,
            gathering.number,
            dict(gathering.progress.last_step),
            dict.fromkeys(gathering.exit_codes, "finished"),
            frozenset(),
            dict(gathering.exit_codes),
            {s.rank: s.dropped_points for s in self.streams.values() if s.attempt == gathering.number},
        )
