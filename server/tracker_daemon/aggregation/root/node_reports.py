"""Applies the reports of nodes' daemons to the fold of a run: values of ranks, and how far each rank is."""

from __future__ import annotations

from abc import abstractmethod

from tracker_daemon.aggregation.root import merging
from tracker_daemon.aggregation.root.attempt import RootAttempt
from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.shared.fold import Fold, plan_of
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.shared.stream import StreamFold
from tracker_daemon.aggregation.values.batch import DecodedBatch
from tracker_daemon.aggregation.values.contribution import NO_STEP, Contribution, Progress


class NodeReports(Fold):
    """A run's fold, as far as nodes' daemons report to it. ``older`` are attempts that have ended."""

    attempt: RootAttempt

    def __init__(self, rules: Rules, books: Books | None = None) -> None:
        super().__init__(rules, books)
        self.older: dict[int, RootAttempt] = {}

    @abstractmethod
    def apply_rank(
        self, source: StreamFold, dictionary: StreamFold, batch: DecodedBatch, now_ns: int
    ) -> None:
        """Apply the batch of a rank; ``dictionary`` is the stream with its names, its own or its node's."""

    def attempt_of(self, number: int) -> RootAttempt | None:
        """Return the attempt of this number; None if it ended long ago."""
        return self.attempt if number == self.attempt.number else self.older.get(number)

    def compare(self, rank: int, names: tuple[str, ...], steps: list[int]) -> None:
        """Compare the metrics of steps that a rank has counted itself with those of other ranks."""
        self.steps.compare(rank, names, steps, self.books, self.notices)

    def apply_report(self, node: StreamFold, batch: DecodedBatch, now_ns: int) -> None:
        """Apply the batch of a node's daemon: values first, since they precede the ends of ranks."""
        self.count_dropped(node, batch.dropped_points)
        report = batch.forwarded
        if batch.own_points:
            self._reject_unknown(batch.own_points)
        if report is None:
            return
        for contribution in report.contributions:
            self._apply_contribution(node, contribution, now_ns)
        for stream, part in report.parts:
            self._apply_part(node, stream, part, now_ns)
        current = (keys for keys in report.automatic_keys if keys.attempt == self.attempt.number)
        for given in current:
            names = node.names_of(given.keys)
            # Steps that a rank logged before the attempt began are not compared with those of this one.
            if names is not None and given.rank in self.attempt.membership.seen:
                self.compare(given.rank, names, given.steps.tolist())
        for progress in report.progress:
            self._apply_progress(progress, now_ns)
        self.notices.extend(report.notices)

    def _apply_contribution(self, node: StreamFold, contribution: Contribution, now_ns: int) -> None:
        attempt = self.attempt_of(contribution.attempt)
        if attempt is None:
            for rank in contribution.ranks.tolist():
                self.books.count_late(rank, contribution.points // len(contribution.ranks))
            return
        if not attempt.membership.may_have(contribution.ranks):
            self._reject_unknown(contribution.points)
            return
        plan = plan_of(node, attempt, contribution.keys)
        if plan is None:
            self.reject_unnamed(contribution.points, "a node's daemon")
            return
        merging.contribute(attempt, plan, contribution, now_ns)

    def _apply_part(self, node: StreamFold, stream: bytes, part: DecodedBatch, now_ns: int) -> None:
        source = self.streams.get(stream)
        if source is None or source.is_node:
            self.books.items_left_out += len(part.items)
            self._reject_unknown(part.points)
            return
        self.apply_rank(source, node, part, now_ns)

    def _reject_unknown(self, points: int) -> None:
        text = "a node's daemon sent values of a process that this one does not know; they are not recorded"
        self.reject(points, "nobody's", text)

    def _apply_progress(self, progress: Progress, now_ns: int) -> None:
        if progress.attempt != self.attempt.number:
            return
        logged = progress.last_steps != NO_STEP
        ranks, steps = progress.ranks[logged].tolist(), progress.last_steps[logged].tolist()
        for rank, step, high in zip(ranks, steps, progress.highest_steps[logged].tolist(), strict=True):
            self.attempt.progress.note_step(rank, step, high)
            self.steps.next_step[rank] = step + 1
        for rank in progress.ranks[progress.flushed].tolist():
            self.attempt.progress.flush_reported(rank, now_ns)
