"""The fold of a run at a daemon that forwards to a root: journalled events in, values for the root out.

    ranks' rows ──▶ panels ──▶ contributions   ┐
    texts, items, configurations ──▶ parts     ├──▶ at a FORWARD event: forwarded values
    steps, flushes ──▶ progress                ┘

The fold decides nothing: the root decides for whom a cell waits, who is lost and when the run ends. Gathered
values leave at FORWARD events, with an item that has contents, and when a rank or the job ends; the fold
looks at no clock. So the output depends on the events and their ticks alone, and a replay forwards the same
values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import IntEnum

from tracker_daemon.aggregation.node.attempt import NodeAttempt
from tracker_daemon.aggregation.node.cells import divide
from tracker_daemon.aggregation.node.dictionary import NodeDictionary
from tracker_daemon.aggregation.node.rank_parts import RankParts
from tracker_daemon.aggregation.node.steps import NodeSteps
from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.shared.fold import (
    Activity,
    Ending,
    Fold,
    FoldSummary,
    TickOutput,
    forget_oldest,
    plan_of,
)
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.shared.stream import StreamFold
from tracker_daemon.aggregation.values.batch import (
    DecodedBatch,
    Exiting,
    ForwardedValues,
    NodeReport,
    Rows,
    TextRows,
)
from tracker_daemon.aggregation.values.contribution import Contribution, Progress
from tracker_protocol import limits


class _Extent(IntEnum):
    """The part of the gathered values that leaves when the tick ends."""

    NOTHING = 0
    WHOLE_ROWS = 1
    """Rows that are complete, or were there at the last FORWARD event, and everything that is no row."""
    EVERYTHING = 2


class NodeFold(Fold):
    """The state of one run, as far as this node's ranks are concerned."""

    def __init__(self, rules: Rules, books: Books | None = None) -> None:
        super().__init__(rules, books)
        self.names = NodeDictionary()
        self.parts = RankParts()
        self.steps: NodeSteps = NodeSteps()
        self.window = 1
        """The number of FORWARD events so far, and 1."""
        self.attempt: NodeAttempt = self.new_attempt(1)
        self.older: dict[int, NodeAttempt] = {}
        self.unsent_notices: list[str] = []
        """Notices that the root does not have yet."""
        self.gap_points_sent = 0
        self.outcome: tuple[str, str] | None = None
        """The run's status and its reason, once the root has decided that."""
        self.wants_flushes = False
        """True if the root learns who reports a metric, and needs the flushes of idle ranks too."""
        self._due = _Extent.NOTHING

    def new_attempt(self, number: int) -> NodeAttempt:
        """Return an attempt without any value."""
        return NodeAttempt(number, self.rules, self.books, self.notices, self.names.admit)

    # ---- events ----------------------------------------------------------------------------------

    def open_attempt(self, number: int, world_size: int) -> None:
        """Begin an attempt: a rank has started again, and nothing of the attempt before waits for more."""
        old = self.attempt
        self.older[old.number] = old
        self.attempt = self.new_attempt(number)
        self.attempt.world_size = world_size or old.world_size
        self.steps.open_attempt()
        self.outcome = None

    def batch(self, stream: bytes, batch: DecodedBatch, now_ns: int) -> None:  # noqa: ARG002 - no clock
        """Apply a batch of a stream whose Hello was applied before."""
        source = self.streams[stream]
        source.add_names(batch.names)
        self.books.received += batch.points
        if self.count_dropped(source, batch.dropped_points):
            self.parts.add_dropped(stream, batch.dropped_points)
        if batch.definitions and source.rank == self.rules.primary_rank:
            self.parts.add_definitions(stream, batch.definitions)
        attempt = self._attempt_of(source)
        if attempt is None:
            self.books.count_late(source.rank, batch.points)
            self.books.items_left_out += len(batch.items)
            return
        if batch.rows or batch.texts or batch.config or batch.items or batch.ends:
            attempt.progress.note_activity(source.rank)
        bars = attempt.progress.note_rows(source.rank, batch.blocks, self.window)
        recorded = self.rules.records_own_values(source.rank)
        for block, block_bars in zip(batch.blocks, bars, strict=True):
            if isinstance(block, TextRows):
                self._keep_own(stream, source, block, recorded=recorded)
            elif block.own:
                self._keep_own(stream, source, block, recorded=self.rules.records_items(source.rank))
            else:
                self._gather(stream, source, attempt, block, block_bars)
        self._note_progress(stream, source, attempt, batch)

    def _attempt_of(self, source: StreamFold) -> NodeAttempt | None:
        current = source.attempt == self.attempt.number
        return self.attempt if current else self.older.get(source.attempt)

    def _gather(
        self, stream: bytes, source: StreamFold, attempt: NodeAttempt, block: Rows, bars: Integers
    ) -> None:
        """Gather rows, or keep them as they are: the rows of recorded ranks must reach the root in order."""
        plan = plan_of(source, attempt, block.keys)
        if plan is None:
            self.known_names(source, source, block)
            return
        if plan.refused:
            self._warn_of_refused()
        if attempt is self.attempt and block.automatic_steps and plan.names:
            steps = block.steps.tolist()
            self.steps.compare_and_send(source.rank, plan.names, steps, self.books, self.notices)
        if self.rules.records_own_values(source.rank):
            self._keep_own(stream, source, block, recorded=True)
        else:
            attempt.contribute(source.rank, plan, block, bars, self.window)

    def _warn_of_refused(self) -> None:
        self.books.warn_once(
            self.notices,
            "metrics",
            f"the ranks of this node log more than {limits.METRICS_PER_RUN_MAX} metrics, or their names take "
            f"more than {limits.HELLO_NAMES_MAX_BYTES} bytes; the further ones are not recorded",
        )

    def _keep_own(self, stream: bytes, source: StreamFold, block: Rows | TextRows, *, recorded: bool) -> None:
        """Keep values that the root receives as they are, or, if they are not recorded, not at all."""
        names = self.known_names(source, source, block)
        if names is None:
            return
        if not recorded:
            self.books.folded += block.points
            return
        admitted = [column for column, name in enumerate(names) if self.names.admit(name)]
        if len(admitted) < len(names):
            self.books.rejected += block.points - len(admitted) * len(block.steps)
            self._warn_of_refused()
            if not admitted:
                return
            block = block.with_columns(admitted)
        if isinstance(block, Rows):
            self.parts.add_rows(stream, block)
        else:
            self.parts.add_texts(stream, block)

    def _note_progress(
        self, stream: bytes, source: StreamFold, attempt: NodeAttempt, batch: DecodedBatch
    ) -> None:
        """Note everything of a batch beside its values."""
        rank = source.rank
        if batch.blocks and attempt is self.attempt:
            self.steps.next_step[rank] = attempt.progress.last_step[rank] + 1
        for document in batch.config:
            self.parts.add_config(stream, document)
        self._pass_on_items(stream, rank, batch)
        if batch.flushed:
            self._note_flush(stream, rank, attempt)
        if batch.exiting is not None:
            attempt.live.discard(rank)
            attempt.exiting[rank] = stream
            self._due = _Extent.EVERYTHING
        elif batch.finish is not None:
            self._finish(stream, attempt, rank, batch.finish)

    def _pass_on_items(self, stream: bytes, rank: int, batch: DecodedBatch) -> None:
        if not self.rules.records_items(rank):
            self.books.items_left_out += len(batch.items)
            return
        self.books.items += len(batch.items)
        for item in batch.items:
            self.parts.add_item(stream, item)
            if item.contents:
                # Only the outbox keeps contents from removal: the item enters it in this very tick.
                self._due = max(self._due, _Extent.WHOLE_ROWS)

    def _finish(self, stream: bytes, attempt: NodeAttempt, rank: int, exit_code: int) -> None:
        attempt.exit_codes[rank] = exit_code
        attempt.live.discard(rank)
        self.parts.add_end(stream, DecodedBatch(finish=exit_code))
        self._due = _Extent.EVERYTHING

    def exit_status(self, rank: int, code: int | None) -> None:
        """Note the exit status of a rank's process, which the root gets with the rank's end."""
        stream = self.attempt.exiting.pop(rank, None)
        if stream is not None:
            if code is not None:
                self.attempt.exit_codes[rank] = code
            self.parts.add_end(stream, DecodedBatch(finish=code, exiting=Exiting()))
            self._due = _Extent.EVERYTHING

    def flushed(self, stream: bytes, now_ns: int) -> None:  # noqa: ARG002 - no clock
        """Note that a stream has sent everything that it logged, with nothing new since its last flush."""
        source = self.streams[stream]
        attempt = self._attempt_of(source)
        if attempt is not None:
            self._note_flush(stream, source.rank, attempt)

    def _note_flush(self, stream: bytes, rank: int, attempt: NodeAttempt) -> None:
        if attempt.progress.note_flush(rank, again=self.wants_flushes):
            self.parts.note_flush(stream)

    def depart(self, rank: int, how: str, now_ns: int) -> None:  # noqa: ARG002 - the root decides how
        """Note that a rank is gone: no row is incomplete for it."""
        self.attempt.live.discard(rank)

    def vanish(self, rank: int, now_ns: int) -> None:  # noqa: ARG002 - no clock
        """Note that a rank's process was seen to end, without a word from it."""
        for stream, source in self.streams.items():
            if source.rank == rank and source.attempt == self.attempt.number and rank in self.attempt.live:
                self.attempt.live.discard(rank)
                self.parts.add_end(stream, DecodedBatch(lost=True))
                self._due = _Extent.EVERYTHING

    def restart_timers(self, now_ns: int) -> None:  # noqa: ARG002 - there are no timers here
        """Wait for no exit status of before: the daemon has started."""
        for rank in list(self.attempt.exiting):
            self.exit_status(rank, None)

    def close_oldest(self, rows: int) -> None:  # noqa: ARG002 - what is forwarded late is not lost
        """Forward everything: too much memory is open."""
        self._due = _Extent.EVERYTHING

    def end(self, status: int, own: Collection[int] = (), reported: Collection[int] = ()) -> None:
        """End the job, whose command ended with ``status``; see :meth:`Fold.end`."""
        attempt = self.attempt
        for rank in list(attempt.exiting):
            self.exit_status(rank, status if rank in own else None)
        for stream, source in self.streams.items():
            rank = source.rank
            if source.attempt != attempt.number or rank not in attempt.live:
                continue
            attempt.live.discard(rank)
            known = rank in own or (status == 0 and rank in reported)
            if known:
                attempt.exit_codes[rank] = status
            end = DecodedBatch(finish=status, exiting=Exiting()) if known else DecodedBatch(lost=True)
            self.parts.add_end(stream, end)
        self._due = _Extent.EVERYTHING

    # ---- events of a node alone ------------------------------------------------------------------

    def forward(self, *, everything: bool) -> None:
        """Forward gathered values when the tick ends; with ``everything`` also rows that slow ranks owe."""
        self._due = max(self._due, _Extent.EVERYTHING if everything else _Extent.WHOLE_ROWS)

    def ended_by_root(self, status: str, reason: str) -> None:
        """Note that the root has ended the run; later values are forwarded at once."""
        self.outcome = status, reason

    def want_flushes(self, *, wanted: bool) -> None:
        """Note if the root needs the flushes of idle ranks."""
        self.wants_flushes = wanted

    # ---- the tick --------------------------------------------------------------------------------

    def settle(self, now_ns: int) -> TickOutput:  # noqa: ARG002 - no clock
        """Return the tick's notices, and the values that are due."""
        notices = tuple(self.notices)
        self.unsent_notices.extend(notices)
        self.notices.clear()
        due = self._due
        if self.over() and self._has_news():
            due = _Extent.EVERYTHING
        self._due = _Extent.NOTHING
        forwarded = None if due is _Extent.NOTHING else self._take(everything=due is _Extent.EVERYTHING)
        return TickOutput(notices=notices, forwarded=forwarded)

    def _take(self, *, everything: bool) -> ForwardedValues:
        """Remove and return what is due; its order is that in which the dictionary gets its new names."""
        first_key = len(self.names.names)
        self.books.folded += self.parts.points
        parts = self.parts.take(self.names, self.streams)
        contributions = tuple(self._take_contributions(everything=everything))
        self.books.folded += sum(contribution.points for contribution in contributions)
        step_keys = self.steps.take(self.names, self.attempt.number)
        notices = tuple(self.unsent_notices)
        self.unsent_notices.clear()
        report = NodeReport(parts, contributions, tuple(self._take_progress()), step_keys, notices)
        new_names = tuple(self.names.names[first_key:])
        values = ForwardedValues(first_key, new_names, report, self._take_lost(), self.parts.take_ends())
        self.window += 1
        forget_oldest(self.older)
        return values

    def _attempts(self) -> Iterator[NodeAttempt]:
        yield from self.older.values()
        yield self.attempt

    def _take_contributions(self, *, everything: bool) -> Iterator[Contribution]:
        for attempt in self._attempts():
            all_of_it = everything or attempt is not self.attempt
            for gathered in attempt.take(self.window, everything=all_of_it):
                yield from divide(attempt.number, gathered, self.names)

    def _take_progress(self) -> Iterator[Progress]:
        """Yield the progress that the root does not know, once the values before it were taken."""
        for attempt in self._attempts():
            progress = attempt.progress.take(attempt.number, self.window, attempt.busy_ranks())
            if progress is not None:
                yield progress

    def _take_lost(self) -> int:
        """Return the number of values lost in gaps, if the root does not know it; else 0."""
        if self.books.gap_points == self.gap_points_sent:
            return 0
        self.gap_points_sent = self.books.gap_points
        return self.gap_points_sent

    # ---- state -----------------------------------------------------------------------------------

    def ending(self) -> Ending | None:
        """Return how the root has ended the run; None before that."""
        return None if self.outcome is None else Ending(outcome=self.outcome)

    def dictionary(self) -> list[str]:
        """Return the node's own dictionary: all metrics that it has named to the root, by their keys."""
        return self.names.names

    def _has_news(self) -> bool:
        waiting = self.parts or self.steps.unsent or self.unsent_notices
        if waiting or self.books.gap_points != self.gap_points_sent:
            return True
        return any(attempt.has_news() for attempt in self._attempts())

    def activity(self) -> Activity:
        """Return what the fold waits for."""
        attempt, news = self.attempt, self._has_news()
        return Activity(
            news or self.wants_flushes or not attempt.live <= attempt.progress.idle,
            sum(one.open_rows() for one in self._attempts()),
            self.parts.bytes + sum(one.open_bytes() for one in self._attempts()),
            attempt.world_size,
            news,
        )

    def summary(self) -> FoldSummary:
        """Return the state of the books and the ranks."""
        attempt = self.attempt
        return FoldSummary(
            self.counts(self.parts.points + sum(one.open_points() for one in self._attempts())),
            0,
            len(attempt.place_of),
            attempt.world_size,
            attempt.number,
            dict(attempt.progress.last_step),
            dict.fromkeys(attempt.exit_codes, "finished"),
            frozenset(),
            dict(attempt.exit_codes),
            self.dropped_by_rank(),
        )
