"""A run's own settings: the options of its first rank, completed by the daemon's, kept for the run's life."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.errors import ProtocolError, SettingsError
from tracker_daemon.files.layout import Layout
from tracker_daemon.rules.metric_rules import (
    MetricSettings,
    read_aggregates,
    read_step_axes,
    read_summaries,
)
from tracker_daemon.rules.rank_selection import RankSet, ReporterRules
from tracker_daemon.runs.client_options import BackendOptions, read_backend_options, read_environment
from tracker_daemon.settings.definitions import Settings
from tracker_protocol.v1 import tracker_pb2 as pb

_NS = 1_000_000_000


class RootBackends(msgspec.Struct, frozen=True):
    """The backends that a forwarded run has at the root."""

    backends: tuple[str, ...] = ()
    script_backends: tuple[str, ...] = ()
    """Classes of the training script, in the primary rank's process."""


class RunOptions(msgspec.Struct, frozen=True):
    """A run's own settings: the options of its first rank, completed by the daemon's settings."""

    backends: str
    outdir: str
    primary_rank: int
    record_ranks: str
    backend_options: BackendOptions = {}
    environment: dict[str, str] = {}
    item_ranks: str = ""
    metrics: MetricSettings = MetricSettings()
    config_may_differ: str = ""
    described_by: int = -1
    """The rank that sent ``environment``; -1 if none has."""
    system_prefix: str = "tracker"
    mlflow_own_name: str = "plain"
    forwarding: RootBackends | None = None
    """Set if this daemon only forwards the run to a root."""
    layout: Layout = Layout.BASE
    """The place of the run's own directory within ``outdir``."""
    label: str = ""
    """The name in the name of the run's own directory."""
    resumes: bool = False
    """True if the client named the run's id, so that the run may have a directory from before."""
    directory: str = ""
    """The run's own directory; empty until it is claimed."""
    directory_id: str = ""

    @classmethod
    def from_settings(cls, settings: Settings, layout: Layout = Layout.PROJECT) -> RunOptions:
        """Return the options of a run whose ranks ask for nothing; ``layout`` is the daemon's own."""
        return cls(
            ",".join(settings.backend_names) or "none",
            str(settings.output_directory),
            settings.primary_rank,
            settings.record_ranks,
            item_ranks=settings.item_ranks,
            metrics=_daemon_metric_settings(settings),
            config_may_differ=settings.config_may_differ,
            system_prefix=settings.system_prefix,
            mlflow_own_name=settings.mlflow_own_name,
            layout=layout,
        )

    def rules(self, daemons: Rules) -> Rules:
        """Return the rules of the run's fold: these options, and the daemon's rules for the rest."""
        return replace(
            daemons,
            primary_rank=self.primary_rank,
            recorded_ranks=RankSet.parse(self.record_ranks),
            item_ranks=RankSet.parse(self.item_ranks),
            aggregates=read_aggregates(self.metrics.aggregates),
            config_may_differ=tuple(filter(None, self.config_may_differ.split(","))),
            step_axes=read_step_axes(self.metrics.step_axes),
            summaries=read_summaries(self.metrics.summaries),
        )

    @property
    def is_described(self) -> bool:
        """True if the description of the script is the primary rank's own."""
        return self.described_by == self.primary_rank

    def described(self, process: pb.Process) -> RunOptions:
        """Return these options with the description of the script that ``process`` sent.

        Raises:
            ProtocolError: the description is not an object of texts, or too large.
        """
        environment = read_environment(process.environment)
        return msgspec.structs.replace(self, environment=environment, described_by=process.rank)


def default_rules(settings: Settings) -> Rules:
    """Return the daemon's own rules of aggregation; a run's options may replace some of them."""
    return Rules(
        primary_rank=settings.primary_rank,
        recorded_ranks=RankSet.parse(settings.record_ranks),
        reporters=ReporterRules.parse(settings.reporters),
        learn_wait_ns=int(settings.learn_wait_s * _NS),
        partial_after_ns=int(settings.partial_after_s * _NS),
        lagging_after_cells=settings.lagging_after_cells,
    )


def complete_options(hello: pb.Hello, defaults: RunOptions) -> RunOptions:
    """Return the options of a run that ``hello`` opens, with ``defaults`` for unset ones.

    Raises:
        ProtocolError: the options contradict one another or the protocol.
        SettingsError: an option has a value that cannot be used.
    """
    asked = hello.options
    outdir, layout = _output_directory(asked, defaults)
    options = RunOptions(
        asked.backends if asked.HasField("backends") else defaults.backends,
        outdir,
        asked.primary_rank if asked.HasField("primary_rank") else defaults.primary_rank,
        asked.record_ranks if asked.HasField("record_ranks") else defaults.record_ranks,
        read_backend_options(asked.backend_options),
        read_environment(hello.process.environment),
        asked.item_ranks if asked.HasField("item_ranks") else defaults.item_ranks,
        _metric_settings(asked.metrics).before(defaults.metrics),
        defaults.config_may_differ,
        hello.process.rank,
        defaults.system_prefix,
        defaults.mlflow_own_name,
        layout=layout,
        label=hello.launch.name or hello.launch.run_id or hello.launch.project,
        resumes=bool(hello.launch.run_id),
    )
    if not Path(options.outdir).is_absolute():
        raise ProtocolError(f"the output directory {options.outdir!r} is not absolute")
    _check_ranks("record_ranks", options.record_ranks)
    _check_ranks("item_ranks", options.item_ranks)
    return options


def _output_directory(asked: pb.RunOptions, defaults: RunOptions) -> tuple[str, Layout]:
    """Return the output directory of a run, and the place of the run's own directory in it.

    A directory that somebody named is the run's own. The script's default counts only in a launch without a
    directory: a service keeps its runs together.
    """
    if asked.HasField("outdir"):
        return asked.outdir, Layout.BASE
    if asked.HasField("default_outdir") and defaults.layout is Layout.NAME:
        return asked.default_outdir, Layout.BASE
    return defaults.outdir, defaults.layout


def _daemon_metric_settings(settings: Settings) -> MetricSettings:
    return MetricSettings(settings.aggregates, settings.step_axes, settings.summaries, settings.thinning)


def _metric_settings(asked: pb.MetricSettings) -> MetricSettings:
    settings = MetricSettings(asked.aggregates, asked.step_axes, asked.summaries, asked.thinning)
    try:
        settings.check()
    except ValueError as error:
        raise SettingsError(str(error)) from error
    return settings


def _check_ranks(name: str, ranks: str) -> None:
    try:
        RankSet.parse(ranks)
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from error
