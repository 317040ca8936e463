"""The fold of one run: journalled events in, records out.

A *tick* is what one group commit holds. Its events are applied in order, then ``settle`` decides
what closes and gives the records; both go into the same transaction. Since events, their ticks and
the ticks' times are journalled, replaying them from the last snapshot gives the same state
and the same records, bit for bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import asdict
from typing import Any

import msgspec

from tracker_daemon.aggregation.root import closing, merging, own_values
from tracker_daemon.aggregation.root.attempt import Attempt
from tracker_daemon.aggregation.root.configuration import ConfigLedger
from tracker_daemon.aggregation.root.emission import Emitter
from tracker_daemon.aggregation.shared import automatic_steps
from tracker_daemon.aggregation.shared.batch import DecodedBatch, Rows, TextRows
from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.shared.contribution import NO_STEP, Contribution, Progress
from tracker_daemon.aggregation.shared.fold import Activity, FoldSummary, TickOutput
from tracker_daemon.aggregation.shared.item import Item
from tracker_daemon.aggregation.shared.marks import Key
from tracker_daemon.aggregation.shared.placement import PlanPart
from tracker_daemon.aggregation.shared.record import RecordBlock
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.shared.stream import NODE, StreamFold
from tracker_daemon.rules.metric_names import DROPPED_POINTS, rank_column

_OLDER_ATTEMPTS_REMEMBERED = 4


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
        self.automatic_keys: automatic_steps.KeySets = OrderedDict()
        self.next_step: dict[int, int] = {}
        self.first_step = 0
        """Where automatic steps of the current attempt begin, for every rank."""
        self.dropped_shown = 0
        self._finished_blocks: list[RecordBlock] = []

    # ---- events ----------------------------------------------------------------------------------

    def hello(self, stream: bytes, rank: int, world_size: int, attempt: int, names: tuple[str, ...]) -> None:
        """A stream connects, for the first time or again; ``names`` is its whole dictionary.

        A node's daemon, whose ``rank`` is NODE, is no member: its ranks say hello for themselves.
        """
        if rank == NODE:
            self.streams.setdefault(stream, StreamFold(NODE, attempt, [])).add_names(names)
            return
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
        if source.is_node:
            self._forwarded(source, batch, now_ns)
        elif batch.forwarded is None:
            self._said(source, source, batch, now_ns)
        else:
            text = f"rank {source.rank} sent what only a node's daemon may send; nothing of it is recorded"
            self._reject(batch.points, ("no node", source.rank), text)

    def _said(self, source: StreamFold, dictionary: StreamFold, batch: DecodedBatch, now_ns: int) -> None:
        """Take in what a rank says; ``dictionary`` has the names, its own stream or that of its node."""
        self._count_dropped(source, batch.dropped_points)
        attempt = self._attempt_of(source.attempt)
        if batch.items:
            self._pass_on(source, batch.items, known=attempt is not None)
        if attempt is None:
            self.books.count_late(source.rank, batch.points)
            return
        for block in batch.rows:
            if not block.own:
                self._rows(source, dictionary, attempt, block, now_ns)
            elif (names := self._names_of(source, dictionary, block)) is not None:
                own_values.take_numbers(source, attempt, names, block)
        for texts in batch.texts:
            if (names := self._names_of(source, dictionary, texts)) is not None:
                own_values.take_texts(source, attempt, names, texts)
        if attempt is self.attempt:
            self._standing(source, batch, now_ns)

    def _attempt_of(self, number: int) -> Attempt | None:
        return self.attempt if number == self.attempt.number else self.older.get(number)

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
        if dropped_points > source.dropped_points:
            self.books.dropped_points += dropped_points - source.dropped_points
            source.dropped_points = dropped_points

    def _rows(
        self, source: StreamFold, dictionary: StreamFold, attempt: Attempt, block: Rows, now_ns: int
    ) -> None:
        plan = self._plan(dictionary, attempt, block.keys)
        if plan is None:
            self._names_of(source, dictionary, block)
            return
        if attempt is self.attempt and block.automatic_steps:
            keys = frozenset(dictionary.names[key] for key in block.keys)
            self._compare_key_sets(source.rank, keys, block.steps.tolist())
        attempt.contribute(source.rank, plan, block, now_ns)

    def _plan(
        self, dictionary: StreamFold, attempt: Attempt, keys: tuple[int, ...]
    ) -> tuple[PlanPart, ...] | None:
        """Where values of ``keys`` go; None where the dictionary has no such names."""
        plan = dictionary.plans.get((attempt.number, keys))
        if plan is None and (names := dictionary.names_of(keys)) is not None:
            plan = dictionary.plans[attempt.number, keys] = attempt.plan(names)
        return plan

    def _names_of(
        self, source: StreamFold, dictionary: StreamFold, block: Rows | TextRows
    ) -> tuple[str, ...] | None:
        """The names of a block's metrics; without them it is rejected."""
        names = dictionary.names_of(block.keys)
        if names is None:
            self._reject_unnamed(len(block.keys) * len(block.steps), f"rank {source.rank}")
        return names

    def _reject_unnamed(self, points: int, who: str) -> None:
        """The batch passed its check against a dictionary that is not the one that came to be."""
        text = f"{who} sent values of metrics that it has not named; they are not recorded"
        self._reject(points, ("unnamed", who), text)

    def _reject(self, points: int, about: Hashable, text: str) -> None:
        self.books.rejected += points
        self.books.warn_once(self.notices, about, text)

    def _compare_key_sets(self, rank: int, keys: frozenset[str], steps: list[int]) -> None:
        notice = automatic_steps.compare(self.automatic_keys, rank, keys, steps)
        if notice is not None:
            self.books.warn_once(self.notices, "automatic steps", notice)

    # ---- what a node's daemon forwards -----------------------------------------------------------

    def _forwarded(self, node: StreamFold, batch: DecodedBatch, now_ns: int) -> None:
        """Take in what a node's daemon says of its ranks: values first, as they come before what ends."""
        self._count_dropped(node, batch.dropped_points)
        news = batch.forwarded
        if batch.own_points:
            self._reject_nobodys(batch.own_points)
        if news is None:
            return
        for contribution in news.contributions:
            self._contribution(node, contribution, now_ns)
        for stream, part in news.parts:
            self._part(node, stream, part, now_ns)
        here = (said for said in news.automatic_keys if said.attempt == self.attempt.number)
        for said in here:
            names = node.names_of(said.keys)
            # What a rank logged before the attempt began is compared with nothing of this one.
            if names is not None and said.rank in self.attempt.membership.seen:
                self._compare_key_sets(said.rank, frozenset(names), said.steps.tolist())
        for progress in news.progress:
            self._progress(progress, now_ns)
        self.notices.extend(news.notices)

    def _contribution(self, node: StreamFold, contribution: Contribution, now_ns: int) -> None:
        attempt = self._attempt_of(contribution.attempt)
        if attempt is None:
            for rank in contribution.ranks.tolist():
                self.books.count_late(rank, contribution.points // len(contribution.ranks))
            return
        if not attempt.membership.may_have(contribution.ranks):
            self._reject_nobodys(contribution.points)
            return
        plan = self._plan(node, attempt, contribution.keys)
        if plan is None:
            self._reject_unnamed(contribution.points, "a node's daemon")
            return
        merging.contribute(attempt, plan, contribution, now_ns)

    def _part(self, node: StreamFold, stream: bytes, part: DecodedBatch, now_ns: int) -> None:
        source = self.streams.get(stream)
        if source is None or source.is_node:
            self.books.items_left_out += len(part.items)
            self._reject_nobodys(part.points)
            return
        self._said(source, node, part, now_ns)

    def _reject_nobodys(self, points: int) -> None:
        text = "a node's daemon sent values of a process that this one does not know; they are not recorded"
        self._reject(points, "nobody's", text)

    def _progress(self, progress: Progress, now_ns: int) -> None:
        if progress.attempt != self.attempt.number:
            return
        logged = progress.last_steps != NO_STEP
        ranks, steps = progress.ranks[logged].tolist(), progress.last_steps[logged]
        self.attempt.last_step.update(zip(ranks, steps.tolist(), strict=True))
        self.next_step.update(zip(ranks, (steps + 1).tolist(), strict=True))
        for rank in progress.ranks[progress.flushed].tolist():
            self.attempt.membership.flushed(rank, now_ns)

    def flushed(self, stream: bytes, now_ns: int) -> None:
        """A stream without news says that all it logged has been sent."""
        source = self.streams[stream]
        if source.belongs_to(self.attempt.number):
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

    def ended_by_root(self, status: str, reason: str) -> None:
        """Only who forwards is told."""

    def want_flushes(self, *, wanted: bool) -> None:
        """Only who forwards is asked."""

    def skip_ordinals(self, count: int) -> None:
        """The journal lost something: records get ordinals beyond what any backend can have."""
        self.emitter.next_ordinal += count

    # ---- the tick --------------------------------------------------------------------------------

    def settle(self, now_ns: int) -> TickOutput:
        """Decide, and hand over what the tick brought forth."""
        keys = self._show_dropped(closing.settle(self.attempt, now_ns), now_ns)
        late = [block for old in self.older.values() for block in self.emitter.emit(old, sorted(old.extras))]
        blocks = (*self._finished_blocks, *late, *self.emitter.emit(self.attempt, keys))
        news = self.config.settle(now_ns, self.attempt.membership.expected, over=self.over())
        settled = TickOutput(
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
            {s.rank: s.dropped_points for s in self.streams.values() if s.belongs_to(attempt.number)},
        )
