"""A run's own settings: what its first rank asked for, completed by the daemon's, kept for the run's life."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.errors import ProtocolError, SettingsError
from tracker_daemon.rules.metric_rules import MetricSettings, read_aggregates
from tracker_daemon.rules.rank_selection import RankSet
from tracker_daemon.runs.client_options import BackendOptions, read_backend_options, read_environment
from tracker_protocol.v1 import tracker_pb2 as pb


class RootBackends(msgspec.Struct, frozen=True):
    """Of a run that goes to the daemon above: the backends that it has there."""

    backends: tuple[str, ...] = ()
    script_backends: tuple[str, ...] = ()
    """Those that are classes of the script, in the primary rank's process."""


class RunOptions(msgspec.Struct, frozen=True):
    """A run's own settings, as its first rank gave them and the daemon completed them."""

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
    """The rank whose ``environment`` it is."""
    system_prefix: str = "tracker"
    forwarding: RootBackends | None = None
    """Set where this daemon only forwards the run."""

    def rules(self, daemons: Rules) -> Rules:
        """What the run's fold goes by: the daemon's rules, and these options over them."""
        return replace(
            daemons,
            primary_rank=self.primary_rank,
            recorded_ranks=RankSet.parse(self.record_ranks),
            item_ranks=RankSet.parse(self.item_ranks),
            aggregates=read_aggregates(self.metrics.aggregates),
            config_may_differ=tuple(filter(None, self.config_may_differ.split(","))),
        )

    @property
    def is_described(self) -> bool:
        """Whether the primary rank itself has said what script it is."""
        return self.described_by == self.primary_rank

    def described(self, process: pb.Process) -> RunOptions:
        """These options, with the description of the script that ``process`` brings; raises ProtocolError."""
        environment = read_environment(process.environment)
        return msgspec.structs.replace(self, environment=environment, described_by=process.rank)


def complete_options(hello: pb.Hello, defaults: RunOptions) -> RunOptions:
    """The options of a run that ``hello`` opens.

    Raises:
        ProtocolError: they make no sense.
        SettingsError: one of them cannot be used.
    """
    asked = hello.options
    options = RunOptions(
        asked.backends if asked.HasField("backends") else defaults.backends,
        asked.outdir if asked.HasField("outdir") else defaults.outdir,
        asked.primary_rank if asked.HasField("primary_rank") else defaults.primary_rank,
        asked.record_ranks if asked.HasField("record_ranks") else defaults.record_ranks,
        read_backend_options(asked.backend_options),
        read_environment(hello.process.environment),
        asked.item_ranks if asked.HasField("item_ranks") else defaults.item_ranks,
        _metric_settings(asked.metrics).before(defaults.metrics),
        defaults.config_may_differ,
        hello.process.rank,
        defaults.system_prefix,
    )
    if not Path(options.outdir).is_absolute():
        raise ProtocolError(f"the output directory {options.outdir!r} is not absolute")
    _check_ranks("record_ranks", options.record_ranks)
    _check_ranks("item_ranks", options.item_ranks)
    return options


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
