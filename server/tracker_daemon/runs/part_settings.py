"""What each of the daemon's parts is told, out of the daemon's settings."""

from __future__ import annotations

from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.recording.recorder import RecorderSettings
from tracker_daemon.rules.metric_rules import MetricSettings
from tracker_daemon.rules.rank_selection import RankSet, ReporterRules
from tracker_daemon.runs.run_options import RunOptions
from tracker_daemon.settings.definitions import Settings
from tracker_protocol import limits

_NS = 1_000_000_000


def backend_names(text: str) -> list[str]:
    """Backends named with commas, each once, in order; none for "none"."""
    names = dict.fromkeys(name.strip().lower() for name in text.split(","))
    return [name for name in names if name and name != "none"]


def default_options(settings: Settings) -> RunOptions:
    """For runs whose ranks leave them out."""
    return RunOptions(
        ",".join(settings.backend_names) or "none",
        str(settings.output_directory),
        settings.primary_rank,
        settings.record_ranks,
        item_ranks=settings.item_ranks,
        metrics=metric_settings(settings),
        config_may_differ=settings.config_may_differ,
        system_prefix=settings.system_prefix,
    )


def metric_settings(settings: Settings) -> MetricSettings:
    """The rules by metric, for those that a run has none for."""
    return MetricSettings(settings.aggregates, settings.step_axes, settings.summaries, settings.thinning)


def rules(settings: Settings) -> Rules:
    """By which runs are aggregated."""
    return Rules(
        primary_rank=settings.primary_rank,
        recorded_ranks=RankSet.parse(settings.record_ranks),
        reporters=ReporterRules.parse(settings.reporters),
        learn_wait_ns=int(settings.learn_wait_s * _NS),
        partial_after_ns=int(settings.partial_after_s * _NS),
        lagging_after_cells=settings.lagging_after_cells,
    )


def recorder_settings(settings: Settings) -> RecorderSettings:
    """How commits are grouped, and what is bounded there."""
    return RecorderSettings(
        settings.commit_window_s,
        limits.COMMIT_BYTES_MAX,
        settings.snapshot_every_s,
        settings.snapshot_every_bytes,
        settings.open_cells_bytes,
        settings.restart_grace_s,
    )
