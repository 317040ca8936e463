"""Rules of a run's fold: the primary rank, the recorded ranks, and the waiting times of cells."""

from __future__ import annotations

from dataclasses import dataclass, field

from tracker_daemon.rules.metric_names import SUFFIXES
from tracker_daemon.rules.metric_rules import MetricRules, Summary
from tracker_daemon.rules.rank_selection import RankSet, ReporterRules, Reporters
from tracker_protocol import limits

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings of one run. Times are in nanoseconds; defaults are those of the limits.

    ``recorded_ranks`` are recorded one by one beside the primary. ``reporters`` names the reporters of some
    metrics, which need not be learned then. ``item_ranks`` are the ranks whose tables, images, artifacts and
    histograms are recorded beside the primary's. ``config_may_differ`` are globs of the configuration's keys
    whose values are each rank's own. ``step_axes`` name the axis of metrics that are not recorded over the
    step, ``summaries`` the value of metrics that represents the run.
    """

    primary_rank: int = 0
    recorded_ranks: RankSet = field(default_factory=RankSet)
    reporters: ReporterRules = field(default_factory=ReporterRules)
    learn_wait_ns: int = int(limits.LEARN_WAIT_S * _NS)
    partial_after_ns: int = int(limits.PARTIAL_AFTER_S * _NS)
    lagging_after_cells: int = limits.LAGGING_AFTER_CELLS
    item_ranks: RankSet = field(default_factory=RankSet)
    aggregates: MetricRules[frozenset[str]] = field(default_factory=MetricRules)
    config_may_differ: tuple[str, ...] = ()
    step_axes: MetricRules[str] = field(default_factory=MetricRules)
    summaries: MetricRules[Summary] = field(default_factory=MetricRules)

    def records(self, rank: int) -> bool:
        """Return True if this rank's own values are emitted under the rank's name."""
        return rank != self.primary_rank and rank in self.recorded_ranks

    def records_own_values(self, rank: int) -> bool:
        """Return True if this rank's own values are recorded: the primary's, or a recorded rank's."""
        return rank == self.primary_rank or self.records(rank)

    def statistics_of(self, metric: str) -> frozenset[str]:
        """Return the aggregates of a metric that are recorded."""
        found = self.aggregates.of(metric)
        return frozenset(SUFFIXES) if found is None else found

    def records_items(self, rank: int) -> bool:
        """Return True if this rank's items are recorded."""
        return rank == self.primary_rank or rank in self.item_ranks

    def reporters_of(self, metric: str) -> Reporters | None:
        """Return the reporters of a metric; None if they must be learned."""
        return self.reporters.reporters_of(metric)
