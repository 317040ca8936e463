"""The fold of a run at a daemon that records: journalled events in, records out.

A *tick* is the content of one group commit. Its events are applied in order. Then ``settle`` decides which
cells close and returns the records. The same transaction commits both. Events, their ticks and the ticks'
times are journalled. So a replay from the last snapshot gives the same state and the same records, bit for
bit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import msgspec
import numpy as np

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.root import closing
from tracker_daemon.aggregation.root.attempt import RootAttempt
from tracker_daemon.aggregation.root.configuration import ConfigLedger
from tracker_daemon.aggregation.root.deadlines import next_deadline_ns
from tracker_daemon.aggregation.root.emission import ordering
from tracker_daemon.aggregation.root.emission.axes import SeriesAxes
from tracker_daemon.aggregation.root.emission.blocks import Emitter
from tracker_daemon.aggregation.root.naming import Naming
from tracker_daemon.aggregation.root.node_reports import NodeReports
from tracker_daemon.aggregation.root.rows import HomeRow
from tracker_daemon.aggregation.root.waiting_rows import waiting_rows
from tracker_daemon.aggregation.shared.automatic_steps import AutomaticSteps
from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.shared.fold import (
    Activity,
    Ending,
    FoldSummary,
    TickOutput,
    WaitingRows,
    forget_oldest,
    plan_of,
)
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.shared.stream import NODE, StreamFold
from tracker_daemon.aggregation.values.batch import DecodedBatch, Rows, TextRows
from tracker_daemon.aggregation.values.item import Item
from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.rules.metric_definitions import Definitions, MetricDefinition
from tracker_daemon.rules.metric_names import DROPPED_POINTS, rank_column
from tracker_protocol import limits
from tracker_protocol.kinds import Kind


class RootFold(NodeReports):
    """The state of one run, of all its ranks."""

    def __init__(self, rules: Rules, books: Books | None = None) -> None:
        super().__init__(rules, books)
        self.warnings: list[str] = []
        """Notices about the script itself, which the primary rank's user must see at once."""
        self.naming = Naming(rules, self.books, self.warnings)
        self.definitions = Definitions(rules.step_axes, rules.summaries)
        self.emitter = Emitter(SeriesAxes(self.definitions, self.books, self.warnings))
        self.config = ConfigLedger(rules)
        self.items: list[Item] = []
        self.steps = AutomaticSteps()
        self.attempt = self._new_attempt(1)
        self.dropped_shown = 0
        self.others_recorded = False
        """True if there were texts, or a rank's own statistics, that are recorded."""
        self._finished_blocks: list[RecordBlock] = []

    def _new_attempt(self, number: int) -> RootAttempt:
        return RootAttempt(number, self.rules, self.books, self.notices, self.naming)

    # ---- events ----------------------------------------------------------------------------------

    def hello(
        self,
        stream: bytes,
        rank: int,
        world_size: int,
        attempt: int,
        names: tuple[str, ...],
        now_ns: int,
    ) -> None:
        """Note that a stream connects, for the first time or again; ``names`` is its whole dictionary.

        A node's daemon, whose ``rank`` is NODE, is no member: its ranks say hello for themselves.
        """
        if rank == NODE:
            self.streams.setdefault(stream, StreamFold(NODE, attempt, [])).add_names(names)
            return
        super().hello(stream, rank, world_size, attempt, names, now_ns)
        if self.attempt.first_hello_ns is None:
            self.attempt.first_hello_ns = now_ns

    def open_attempt(self, number: int, world_size: int) -> None:
        """Begin an attempt: a rank has started again, and open cells of the attempt before close as they are.

        The attempt's world size is that of its first rank, if the rank knows it: an elastic restart may have
        fewer ranks than before.
        """
        old = self.attempt
        closing.close_all(old)
        old.fence()
        self._finished_blocks.extend(self._emit(old, old.settled_ns))
        old.forget_marks()
        self.older[old.number] = old
        forget_oldest(self.older)
        self.attempt = self._new_attempt(number)
        self.attempt.membership.world_size = world_size or old.membership.world_size
        self.steps.open_attempt()
        self.config.open_attempt()

    def batch(self, stream: bytes, batch: DecodedBatch, now_ns: int) -> None:
        """Apply a batch of a stream whose Hello was applied before."""
        source = self.streams[stream]
        source.add_names(batch.names)
        self.books.received += batch.points
        if source.is_node:
            self.apply_report(source, batch, now_ns)
        elif batch.forwarded is None:
            self.apply_rank(source, source, batch, now_ns)
        else:
            text = f"rank {source.rank} sent what only a node's daemon may send; nothing of it is recorded"
            self.reject(batch.points, ("no node", source.rank), text)

    def apply_rank(
        self, source: StreamFold, dictionary: StreamFold, batch: DecodedBatch, now_ns: int
    ) -> None:
        """Apply the batch of a rank; ``dictionary`` is the stream with its names, its own or its node's."""
        self.count_dropped(source, batch.dropped_points)
        attempt = self.attempt_of(source.attempt)
        if attempt is None:
            self._pass_on_items(source, batch.items, None)
            self.books.count_late(source.rank, batch.points)
            return
        for definition in batch.definitions:
            self._define(source.rank, definition)
        bars = attempt.progress.note_rows(source.rank, batch.blocks)
        for block, block_bars in zip(batch.blocks, bars, strict=True):
            if isinstance(block, Rows) and not block.own:
                self._rows(source, dictionary, attempt, block, block_bars, now_ns)
            elif (names := self.known_names(source, dictionary, block)) is None:
                continue
            elif isinstance(block, Rows):
                self._own_numbers(source.rank, attempt, names, block, now_ns)
            else:
                self._own_texts(source.rank, attempt, names, block, now_ns)
        self._pass_on_items(source, batch.items, attempt)
        if attempt is self.attempt:
            self._note_progress(source, batch, now_ns)

    def _define(self, rank: int, definition: MetricDefinition) -> None:
        """Add a definition of the primary rank's script; that of another rank has no effect."""
        if rank != self.rules.primary_rank:
            return
        attempts = (self.attempt, *self.older.values())
        recorded = (
            name
            for attempt in attempts
            for panel in attempt.panels
            for name, shown in zip(panel.names, panel.shown, strict=True)
            if shown is not None
        )
        sentence = self.emitter.axes.define(definition, recorded, others_recorded=self.others_recorded)
        if sentence:
            self.warnings.append(sentence)

    def _pass_on_items(self, source: StreamFold, items: Iterable[Item], attempt: RootAttempt | None) -> None:
        """Pass on items, which wait for no other rank; the key of one beside the primary's has its rank."""
        rank = source.rank
        recorded = attempt is not None and self.rules.records_items(rank)
        queue = attempt.queues.get(rank) if attempt is not None and self.definitions.axes else None
        for item in items:
            if not recorded:
                self.books.items_left_out += 1
                continue
            self.books.items += 1
            key = item.key if rank == self.rules.primary_rank else rank_column(item.key, rank)
            axes = {} if queue is None else dict(queue.axes_at(item.row))
            axis = "" if queue is None else self.emitter.axes.of_item(key, axes)
            place = {"key": key, "rank": rank, "attempt": source.attempt, "axes": axes, "axis": axis}
            self.items.append(msgspec.structs.replace(item, **place))

    def _note_progress(self, source: StreamFold, batch: DecodedBatch, now_ns: int) -> None:
        """Note everything of a batch beside its values."""
        if batch.blocks:
            self.steps.next_step[source.rank] = int(self.attempt.progress.last_step[source.rank]) + 1
        if batch.config:
            self.config.add(source.rank, source.attempt, batch.config, now_ns)
        if batch.flushed:
            self.attempt.progress.flush(source.rank, now_ns)
        if batch.ends:
            self._end_rank(source.rank, batch)
        elif batch.lost:
            self.vanish(source.rank, now_ns)

    def _end_rank(self, rank: int, batch: DecodedBatch) -> None:
        if batch.exiting is not None:
            self.attempt.membership.exit(rank, batch.finish, awaited=batch.finish is None)
        elif batch.finish is not None:
            self.attempt.membership.exit_codes[rank] = batch.finish
        self.attempt.depart(rank, "finished")

    def _rows(
        self,
        source: StreamFold,
        dictionary: StreamFold,
        attempt: RootAttempt,
        block: Rows,
        bars: Integers,
        now_ns: int,
    ) -> None:
        rank, plan = source.rank, plan_of(dictionary, attempt, block.keys)
        if plan is None:
            self.known_names(source, dictionary, block)
            return
        if attempt is self.attempt and block.automatic_steps:
            self.compare(rank, plan.names, block.steps.tolist())
        attempt.note_axes(self.definitions.axes, rank, plan.names, block, now_ns)
        attempt.contribute(rank, plan, block, bars, now_ns)

    def _own_texts(
        self, rank: int, attempt: RootAttempt, names: tuple[str, ...], block: TextRows, now_ns: int
    ) -> None:
        """Put texts into the rows of a rank whose own values are recorded."""
        self.books.folded += block.points
        if not self.rules.records_own_values(rank):
            return
        self.others_recorded = True
        columns = [self._own_column(name, rank, attempt) for name in names]
        for row, texts in zip(_rows_of(attempt, rank, block, now_ns), block.values, strict=True):
            row.texts.update(zip(columns, texts, strict=True))

    def _own_numbers(
        self, rank: int, attempt: RootAttempt, names: tuple[str, ...], block: Rows, now_ns: int
    ) -> None:
        """Put numbers of which nothing is computed into the rows of a rank whose items are recorded."""
        self.books.folded += block.points
        if not self.rules.records_items(rank):
            return
        self.others_recorded = True
        columns = [self._own_column(name, rank, attempt) for name in names]
        floats = np.zeros(block.values.shape, np.uint8)
        kinds = (floats if block.kinds is None else block.kinds).tolist()
        for i, row in enumerate(_rows_of(attempt, rank, block, now_ns)):
            numbers = zip(block.values[i].tolist(), kinds[i], strict=True)
            row.numbers.update(zip(columns, numbers, strict=True))

    def _own_column(self, name: str, rank: int, attempt: RootAttempt) -> str:
        shown = self.naming.shown_name(name, attempt)
        return shown if rank == self.rules.primary_rank else rank_column(shown, rank)

    def flushed(self, stream: bytes, now_ns: int) -> None:
        """Note that a stream has sent everything that it logged, with nothing new since its last flush."""
        source = self.streams[stream]
        if source.belongs_to(self.attempt.number):
            self.attempt.progress.flush(source.rank, now_ns)

    def depart(self, rank: int, how: str, now_ns: int) -> None:
        """Note that a rank is "lost" or "absent"."""
        if rank not in self.attempt.membership.gone:
            self.attempt.depart(rank, how)
            if how == "lost":
                self.attempt.membership.lost(now_ns)

    def vanish(self, rank: int, now_ns: int) -> None:
        """Note that a rank's process was seen to end, without a word from it: the rank is lost."""
        if rank not in self.attempt.membership.gone:
            self.depart(rank, "lost", now_ns)
            self.attempt.membership.vanished.add(rank)

    def exit_status(self, rank: int, code: int | None) -> None:
        """Note the exit status of a rank's process; None if it cannot be known."""
        if rank in self.attempt.membership.exited:
            self.attempt.membership.exit(rank, code)

    def restart_timers(self, now_ns: int) -> None:
        """Start every wait again: the daemon has started. Exit statuses of before can be read no more."""
        self.attempt.restart_timers(now_ns)
        self.attempt.membership.give_up_statuses()

    def close_oldest(self, rows: int) -> None:
        """Close the oldest rows as partial: too much memory is open."""
        closing.close_oldest(self.attempt, rows)

    def end(self, status: int, own: Collection[int] = (), reported: Collection[int] = ()) -> None:
        """End the job, whose command ended with ``status``; see :meth:`Fold.end`."""
        members = self.attempt.membership
        members.command_status = status
        for rank in sorted(members.expected()):
            if rank in own or (status == 0 and rank in reported):
                members.exit(rank, status)
                self.attempt.depart(rank, "finished")
            else:
                self.attempt.depart(rank, "lost" if rank in members.seen else "absent")
        for rank in own:
            if members.exited.get(rank) is False:
                members.exit(rank, status)
        members.give_up_statuses()
        closing.close_all(self.attempt)
        members.lost_ns = None  # nothing starts again what the job's end has ended

    def skip_ordinals(self, count: int) -> None:
        """Skip ordinals, beyond those that any backend can have: the journal has lost something."""
        self.emitter.next_ordinal += count

    # ---- the tick --------------------------------------------------------------------------------

    def settle(self, now_ns: int) -> TickOutput:
        """Decide, and return the tick's output."""
        self._show_dropped(now_ns)
        late = [block for old in self.older.values() for block in self._emit(old, now_ns)]
        blocks = (*self._finished_blocks, *late, *self._emit(self.attempt, now_ns))
        config = self.config.settle(now_ns, self.attempt.membership.expected, over=self.over())
        settled = TickOutput(
            tuple(config.documents), blocks, (*self.notices, *self.warnings, *config.notices),
            tuple(self.items), tuple(config.changes), (*self.warnings, *config.warnings),
            later_configs=tuple(config.later),
        )  # fmt: skip
        self.books.records += sum(map(len, blocks))
        self._finished_blocks.clear()
        self.items.clear()
        self.notices.clear()
        self.warnings.clear()
        return settled

    def _emit(self, attempt: RootAttempt, now_ns: int) -> list[RecordBlock]:
        touched = closing.settle(attempt, now_ns)
        blocks = list(self.emitter.emit(attempt, ordering.due(attempt, touched, now_ns)))
        for index, rows in touched.items():  # late values leave rows without anything to emit
            attempt.panels[index].release(rows)
        return blocks

    def _show_dropped(self, now_ns: int) -> None:
        """Add the count of dropped values to the primary's last waiting row, or at the end to a row alone."""
        if self.books.dropped_points == self.dropped_shown:
            return
        attempt, primary = self.attempt, self.rules.primary_rank
        queue = attempt.queue(primary)
        if not queue.waiting:
            if not self.over():
                return
            last_step = max(attempt.progress.last_steps().values(), default=0)
            queue.row(limits.ROW_NUMBER_MAX, last_step, now_ns, now_ns)
        self.dropped_shown = self.books.dropped_points
        queue.waiting[-1].numbers[DROPPED_POINTS] = float(self.books.dropped_points), Kind.INT

    def next_deadline_ns(self) -> int | None:
        """Return the time at which something changes without an event; None while nothing waits."""
        deadlines = next_deadline_ns(self.attempt), self.config.next_deadline_ns()
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # ---- state -----------------------------------------------------------------------------------

    def ending(self) -> Ending | None:
        """Return when a rank was last lost, if no rank is left; None while one is."""
        members = self.attempt.membership
        return Ending(members.lost_ns) if members.over() else None

    def waiting_rows(self, rank: int) -> WaitingRows:
        """Return the rows of ``rank`` that are not emitted yet."""
        return waiting_rows(self.attempt, rank)

    def activity(self) -> Activity:
        """Return what the fold waits for."""
        attempt = self.attempt
        return Activity(
            attempt.is_learning() or ordering.waits_for_flush(attempt),
            attempt.open_rows(),
            attempt.open_bytes(),
            attempt.membership.world_size,
            deadline_ns=self.next_deadline_ns(),
        )

    def summary(self) -> FoldSummary:
        """Return the state of the books and the ranks."""
        attempt = self.attempt
        members = attempt.membership
        return FoldSummary(
            self.counts(attempt.open_points()),
            self.books.records,
            len(attempt.place_of),
            members.world_size,
            attempt.number,
            attempt.progress.last_steps(),
            dict(members.gone),
            frozenset(attempt.lagging),
            dict(members.exit_codes),
            self.dropped_by_rank(),
            frozenset(members.exited),
            frozenset(members.vanished),
            members.command_status,
        )


def _rows_of(attempt: RootAttempt, rank: int, block: Rows | TextRows, now_ns: int) -> Iterator[HomeRow]:
    """Yield the rows of ``rank`` that the rows of ``block`` belong to."""
    queue = attempt.queue(rank)
    axis = zip(block.row_numbers.tolist(), block.steps.tolist(), block.times_ns.tolist(), strict=True)
    return (queue.row(number, step, time_ns, now_ns) for number, step, time_ns in axis)
