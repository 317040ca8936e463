"""The fold of one run: journalled events in, records out.

A *tick* is what one group commit holds. Its events are applied in order, then ``settle`` decides
what closes and gives the records; both go into the same transaction. Since events, their ticks and
the ticks' times are journalled, replaying them from the last snapshot gives the same state
and the same records, bit for bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from tracker_daemon.aggregation import closing
from tracker_daemon.aggregation.attempt import Attempt, PlanPart
from tracker_daemon.aggregation.batch import DecodedBatch, Rows, TextRows
from tracker_daemon.aggregation.books import Books
from tracker_daemon.aggregation.configuration import ConfigLedger
from tracker_daemon.aggregation.emission import Emitter
from tracker_daemon.aggregation.folding import Activity, FoldSummary, Settled
from tracker_daemon.aggregation.item import Item
from tracker_daemon.aggregation.marks import Key
from tracker_daemon.aggregation.naming import DROPPED_POINTS, rank_column
from tracker_daemon.aggregation.record import RecordBlock
from tracker_daemon.aggregation.rules import Rules
from tracker_protocol import limits

_AUTOMATIC_STEPS_REMEMBERED = 4_096
_OLDER_ATTEMPTS_REMEMBERED = 4


@dataclass(slots=True, eq=False)
class StreamFold:
    """What the fold knows of one stream. ``plans`` and ``known`` are caches and not part of the state."""

    rank: int
    attempt: int
    names: list[str]
    dropped_points: int = 0
    own_highs: dict[str, list[int]] = field(default_factory=dict)
    plans: dict[tuple[int, ...], tuple[PlanPart, ...]] = field(default_factory=dict)
    known: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.known = set(self.names)

    def add_names(self, names: Iterable[str]) -> None:
        """Append those that are new: a batch that is sent again may follow a Hello that has its names."""
        for name in names:
            if name not in self.known:
                self.known.add(name)
                self.names.append(name)

    def names_of(self, keys: tuple[int, ...]) -> tuple[str, ...] | None:
        """The metrics of a block; None where the dictionary has no such names."""
        return tuple(self.names[key] for key in keys) if max(keys) < len(self.names) else None


class RunFold:
    """The state of one run."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.books = Books()
        self.emitter = Emitter()
        self.streams: dict[bytes, StreamFold] = {}
        self.notices: list[str] = []
        self.config = ConfigLedger(rules)
        self.items: list[Item] = []
        self.attempt = Attempt(1, rules, self.books, self.notices)
        self.older: dict[int, Attempt] = {}
        self.automatic_keys: OrderedDict[int, frozenset[str]] = OrderedDict()
        self.next_step: dict[int, int] = {}
        self.first_step = 0
        """Where automatic steps of the current attempt begin, for every rank."""
        self.dropped_shown = 0
        self._finished_blocks: list[RecordBlock] = []

    # ---- events ----------------------------------------------------------------------------------

    def hello(self, stream: bytes, rank: int, world_size: int, attempt: int, names: tuple[str, ...]) -> None:
        """A stream connects, for the first time or again; ``names`` is its whole dictionary."""
        if attempt > self.attempt.number:
            self._open_attempt(attempt, world_size)
        known = self.streams.get(stream)
        if known is None:
            self.streams[stream] = StreamFold(rank, attempt, list(names))
        else:
            # Batches with names may have been rejected, dropped or lost; the client still knows all.
            known.add_names(names)
        if attempt == self.attempt.number:
            self.attempt.membership.joined(rank, world_size)

    def _open_attempt(self, number: int, world_size: int) -> None:
        """A rank has come again: what the attempt before left open is closed as it stands.

        The attempt's world size is what its first rank says, if it knows it: an elastic restart may
        have fewer ranks than before.
        """
        old = self.attempt
        closing.close_all(old)
        self._finished_blocks.extend(self.emitter.emit(old, closing.settle(old, old.settled_ns)))
        old.fence()
        self.older[old.number] = old
        while len(self.older) > _OLDER_ATTEMPTS_REMEMBERED:
            del self.older[min(self.older)]
        self.attempt = Attempt(number, self.rules, self.books, self.notices)
        self.attempt.membership.world_size = world_size or old.membership.world_size
        self.automatic_keys.clear()
        # All ranks go on from where the furthest one was, or their steps would differ from then on.
        self.first_step = max(self.next_step.values(), default=self.first_step)
        self.next_step.clear()
        self.config.open_attempt()

    def step_to_go_on_from(self, rank: int, attempt: int) -> int:
        """The automatic step that comes next for a rank that joins, or comes back to, ``attempt``."""
        if attempt > self.attempt.number:
            return max(self.next_step.values(), default=self.first_step)
        return self.next_step.get(rank, self.first_step)

    def batch(self, stream: bytes, batch: DecodedBatch, now_ns: int) -> None:
        """Take in a batch of a stream that has said hello."""
        source = self.streams[stream]
        source.add_names(batch.names)
        self.books.received += batch.points
        self._count_dropped(source, batch.dropped_points)
        attempt = self._attempt_of(source)
        self._pass_on(source, batch.items, known=attempt is not None)
        if attempt is None:
            self.books.count_late(source.rank, batch.points)
            return
        for block in batch.rows:
            if block.own:
                self._own_rows(source, attempt, block)
            else:
                self._rows(source, attempt, block, now_ns)
        for texts in batch.texts:
            self._texts(source, attempt, texts)
        if attempt is self.attempt:
            self._standing(source, batch, now_ns)

    def _attempt_of(self, source: StreamFold) -> Attempt | None:
        current = source.attempt == self.attempt.number
        return self.attempt if current else self.older.get(source.attempt)

    def _pass_on(self, source: StreamFold, items: Iterable[Item], *, known: bool) -> None:
        """Items wait for no other rank; those of a rank beside the primary carry it in their name."""
        rank = source.rank
        recorded = known and self.rules.records_items(rank)
        for item in items:
            if not recorded:
                self.books.items_left_out += 1
                continue
            self.books.items += 1
            key = item.key if rank == self.rules.primary_rank else rank_column(item.key, rank)
            self.items.append(msgspec.structs.replace(item, key=key, rank=rank, attempt=source.attempt))

    def _standing(self, source: StreamFold, batch: DecodedBatch, now_ns: int) -> None:
        """What a batch says beside its values."""
        if batch.rows:
            latest = max(batch.rows, key=lambda block: int(block.times_ns[-1]))
            self.next_step[source.rank] = int(latest.steps[-1]) + 1
        if batch.config:
            self.config.take(source.rank, source.attempt, batch.config, now_ns)
        if batch.flushed:
            self.attempt.membership.flushed(source.rank, now_ns)
        if batch.finish is not None:
            self.attempt.membership.exit_codes[source.rank] = batch.finish
            self.attempt.depart(source.rank, "finished")

    def _count_dropped(self, source: StreamFold, dropped_points: int) -> None:
        self.books.dropped_points += max(0, dropped_points - source.dropped_points)
        source.dropped_points = max(dropped_points, source.dropped_points)

    def _rows(self, source: StreamFold, attempt: Attempt, block: Rows, now_ns: int) -> None:
        plan = source.plans.get(block.keys)
        if plan is None:
            names = source.names_of(block.keys)
            if names is None:
                self._reject_unnamed(source, block)
                return
            plan = source.plans[block.keys] = attempt.plan(names)
        if attempt is self.attempt and block.automatic_steps:
            self._compare_key_sets(source, block)
        attempt.contribute(source.rank, plan, block, now_ns)

    def _reject_unnamed(self, source: StreamFold, block: Rows | TextRows) -> None:
        """The batch passed its check against a dictionary that is not the one that came to be."""
        self.books.rejected += len(block.keys) * len(block.steps)
        self.books.warn_once(
            self.notices,
            ("unnamed", source.rank),
            f"rank {source.rank} sent values of metrics that it has not named; they are not recorded",
        )

    def _compare_key_sets(self, source: StreamFold, block: Rows) -> None:
        """Ranks that count steps themselves must log the same things, or their steps drift apart."""
        keys = frozenset(source.names[key] for key in block.keys)
        for step in block.steps.tolist():
            known = self.automatic_keys.setdefault(step, keys)
            if known != keys:
                self.books.warn_once(
                    self.notices,
                    "automatic steps",
                    f"at automatic step {step} rank {source.rank} logged {sorted(keys)[:5]} and another rank "
                    f"{sorted(known)[:5]}: where ranks log different metrics, pass step= to log()",
                )
        while len(self.automatic_keys) > _AUTOMATIC_STEPS_REMEMBERED:
            self.automatic_keys.popitem(last=False)

    def _texts(self, source: StreamFold, attempt: Attempt, block: TextRows) -> None:
        """Texts are own values: nobody is waited for."""
        rank = source.rank
        recorded = rank == self.rules.primary_rank or self.rules.records(rank)
        for key, time_ns, column, text in self._own_cells(source, attempt, block, recorded=recorded):
            attempt.extras_at(key, time_ns).texts[column] = text

    def _own_rows(self, source: StreamFold, attempt: Attempt, block: Rows) -> None:
        """Numbers that are to stay as they are, from the ranks whose items are recorded."""
        recorded = self.rules.records_items(source.rank)
        for key, time_ns, column, number in self._own_cells(source, attempt, block, recorded=recorded):
            if not attempt.is_computed(column):
                attempt.extras_at(key, time_ns).numbers[column] = float(number)

    def _own_cells(
        self, source: StreamFold, attempt: Attempt, block: Rows | TextRows, *, recorded: bool
    ) -> Iterator[tuple[Key, int, str, Any]]:
        """Where each value goes, as (step and occurrence), time, name: into the record of its step."""
        names = source.names_of(block.keys)
        if names is None:
            self._reject_unnamed(source, block)
            return
        self.books.folded += len(block.keys) * len(block.steps)
        if not recorded:
            return
        rank, primary = source.rank, source.rank == self.rules.primary_rank
        axis = zip(block.steps.tolist(), block.times_ns.tolist(), strict=True)
        for (step, time_ns), values in zip(axis, block.values, strict=True):
            for name, value in zip(names, values, strict=True):
                occurrence = _own_occurrence(source.own_highs.setdefault(name, []), step)
                if occurrence >= limits.OCCURRENCES_PER_STEP_MAX:
                    self.books.folded -= 1
                    attempt.reject_repeats(rank, name, step, 1)
                    continue
                yield (step, occurrence), time_ns, name if primary else rank_column(name, rank), value

    def flushed(self, stream: bytes, now_ns: int) -> None:
        """A stream without news says that all it logged has been sent."""
        source = self.streams[stream]
        if source.attempt == self.attempt.number:
            self.attempt.membership.flushed(source.rank, now_ns)

    def depart(self, rank: int, how: str, now_ns: int) -> None:
        """A rank is "lost" or "absent"."""
        if rank not in self.attempt.membership.gone:
            self.attempt.depart(rank, how)
            if how == "lost":
                self.attempt.membership.lost(now_ns)

    def gap(self, points: int) -> None:
        """A client dropped what it could not keep."""
        self.books.gap_points += points
        self.books.dropped_points += points

    def rejected(self) -> None:
        """A batch could not be decoded."""
        self.books.rejected_batches += 1

    def restart_timers(self, now_ns: int) -> None:
        """The daemon has started again."""
        self.attempt.restart_timers(now_ns)

    def close_oldest(self, rows: int) -> None:
        """Too much memory is open: close the oldest rows as partial."""
        closing.close_oldest(self.attempt, rows)

    def end(self, exit_code: int) -> None:
        """The job is over: its exit code stands for the ranks that did not finish by themselves."""
        members = self.attempt.membership
        for rank in sorted(members.expected()):
            members.exit_codes[rank] = exit_code
            self.attempt.depart(rank, "finished")
        closing.close_all(self.attempt)
        members.lost_ns = None  # nothing starts again what the job's end has ended

    def cut(self, *, everything: bool) -> None:
        """Only what is forwarded is cut."""

    def told_over(self, status: str, reason: str) -> None:
        """Only who forwards is told."""

    def skip_ordinals(self, count: int) -> None:
        """The journal lost something: records get ordinals beyond what any backend can have."""
        self.emitter.next_ordinal += count

    # ---- the tick --------------------------------------------------------------------------------

    def settle(self, now_ns: int) -> Settled:
        """Decide, and hand over what the tick brought forth."""
        keys = self._show_dropped(closing.settle(self.attempt, now_ns), now_ns)
        late = [block for old in self.older.values() for block in self.emitter.emit(old, sorted(old.extras))]
        blocks = (*self._finished_blocks, *late, *self.emitter.emit(self.attempt, keys))
        news = self.config.settle(now_ns, self.attempt.membership.expected, over=self.over())
        settled = Settled(
            tuple(news.documents), blocks, (*self.notices, *news.notices), tuple(self.items),
            tuple(news.changes), tuple(news.warnings),
        )  # fmt: skip
        self.books.records += sum(map(len, blocks))
        self._finished_blocks.clear()
        self.items.clear()
        self.notices.clear()
        return settled

    def _show_dropped(self, keys: list[Key], now_ns: int) -> list[Key]:
        """Put the count of dropped values into the tick's last record; into one of its own at the end."""
        if self.books.dropped_points == self.dropped_shown:
            return keys
        last = (max(self.attempt.last_step.values(), default=0), 0)
        if not keys and self.over() and last not in self.attempt.parts_at:
            keys = [last]
        if not keys:
            return keys
        self.dropped_shown = self.books.dropped_points
        extras = self.attempt.extras_at(keys[-1], now_ns)
        extras.numbers[DROPPED_POINTS] = float(self.books.dropped_points)
        return keys

    def next_deadline_ns(self) -> int | None:
        """When something would change though nothing arrives; None while nothing waits."""
        deadlines = self.attempt.next_deadline_ns(), self.config.next_deadline_ns()
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # ---- how it stands ---------------------------------------------------------------------------

    def over(self) -> bool:
        """Whether every rank has ended."""
        return self.attempt.membership.over()

    @property
    def lost_ns(self) -> int | None:
        """When a rank was last lost, while one is."""
        return self.attempt.membership.lost_ns

    @property
    def outcome(self) -> None:
        """Nobody decides that but this fold."""

    def names_of(self, stream: bytes) -> list[str]:
        """A stream's dictionary; empty for one that is unknown."""
        known = self.streams.get(stream)
        return known.names if known is not None else []

    def activity(self) -> Activity:
        """What is going on."""
        attempt = self.attempt
        return Activity(
            attempt.is_learning(), attempt.open_rows(), attempt.open_bytes(), attempt.membership.world_size
        )

    def summary(self) -> FoldSummary:
        """How it stands."""
        counts: dict[str, Any] = asdict(self.books)
        for name in ("late_by_rank", "warned", "records"):
            del counts[name]
        attempt = self.attempt
        members = attempt.membership
        return FoldSummary(
            {**counts, "open": attempt.open_points()},
            self.books.records,
            len(attempt.place_of),
            members.world_size,
            attempt.number,
            dict(attempt.last_step),
            dict(members.gone),
            frozenset(attempt.lagging),
            dict(members.exit_codes),
            {s.rank: s.dropped_points for s in self.streams.values() if s.attempt == attempt.number},
        )


def _own_occurrence(highs: list[int], step: int) -> int:
    """The rule of :mod:`tracker_daemon.aggregation.occurrence`, for one metric's own values."""
    occurrence = sum(high >= step for high in highs)
    if occurrence < len(highs):
        highs[occurrence] = step
    elif occurrence < limits.OCCURRENCES_PER_STEP_MAX:
        highs.append(step)
    return occurrence
