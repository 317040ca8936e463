"""The daemon's settings: one class, and what a setting is called in its three forms.

Every setting has one name in three forms: the flag ``--learn-wait-s``, the variable
``TRACKER_LEARN_WAIT_S`` and the key ``learn_wait_s`` of the TOML file that ``--config`` or
``TRACKER_CONFIG`` names. :mod:`tracker_daemon.settings.loading` puts these on one another;
constructing :class:`Settings` itself reads neither environment nor file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from tracker_daemon.settings.metric_settings import (
    CONFIG_MAY_DIFFER,
    Aggregates,
    StepAxes,
    Summaries,
    ThinningRules,
)
from tracker_daemon.settings.value_types import (
    AbsolutePath,
    Addresses,
    ByteCount,
    CommaSeparated,
    Globs,
    Names,
    Ranks,
    Reporters,
    Seconds,
    Token,
    absolute,
    lower,
)
from tracker_protocol import limits
from tracker_protocol.backend_names import split_backend_names

ENVIRONMENT_PREFIX = "TRACKER_"
DEFAULT_ORIGIN = "default"


class Settings(BaseSettings):
    """What a daemon is told. Paths are absolute; names end in their unit (``_s`` seconds, ``_bytes``)."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", validate_default=True)

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    config: AbsolutePath | None = Field(None, description="TOML file with settings.")
    listen: Addresses = Field(
        ["127.0.0.1:0"],
        description="Addresses to listen at: host:port (port 0 chooses one) or unix:/path; comma-separated.",
    )
    interface: Names = Field(
        [],
        description="Network interfaces whose addresses clients try first, as hsn0, where it listens at all: "
        "at 0.0.0.0 or [::], which it does when this is set and listen is not.",
    )
    tls: bool = Field(False, description="Encrypt, with a certificate that is made in the state directory.")
    tls_cert: AbsolutePath | None = Field(
        None, description="Encrypt with this certificate (PEM, with its chain); with tls_key."
    )
    tls_key: AbsolutePath | None = Field(None, description="The key of tls_cert (PEM).")
    token: Token | None = Field(
        None, description="The token that clients need. Unset: one is made, and kept in the state directory."
    )
    upstream: str | None = Field(
        None,
        description="Record nothing here, but forward to this daemon: host:port, unix:/path or its endpoint "
        "file. For a daemon on each node of a job.",
    )
    upstream_token: Token | None = Field(
        None,
        description="The token of the daemon to forward to. Unset: its endpoint file's, else this one's own.",
    )
    upstream_tls_root: AbsolutePath | None = Field(
        None,
        description="The certificate (PEM) of the daemon to forward to, where it is named by an address.",
    )
    endpoint_file: AbsolutePath | None = Field(
        None, description="File that tells clients where the daemon is; written once it is ready."
    )
    state_dir: AbsolutePath | None = Field(
        None,
        description="Directory of the journal. Unset: OUTDIR/.tracker for run, the platform's for serve.",
    )
    outdir: AbsolutePath | None = Field(
        None, description="Where file backends write. Unset: the working directory."
    )
    backends: CommaSeparated = Field(
        "wandb", description="Backends of runs that name none, with commas; 'none' records nowhere."
    )
    primary_rank: int = Field(
        0, ge=0, lt=limits.WORLD_SIZE_MAX, description="The rank whose own value is the plain metric."
    )
    record_ranks: Ranks = Field(
        "", description="Ranks whose own values are recorded too: '0,8-15', 'all' or nothing."
    )
    item_ranks: Ranks = Field(
        "", description="Ranks whose tables, images, artifacts and histograms are recorded too."
    )
    reporters: Reporters = Field(
        "", description="Who reports a metric, by glob: 'lr=primary,eval/*=primary'. Others are learned."
    )
    aggregates: Aggregates = Field(
        "", description="Aggregates across ranks, by glob: 'lr=none,loss=mean+max'. Others have all."
    )
    step_axes: StepAxes = Field(
        "", description="Metrics that are drawn over another than the step, by glob: 'eval/*=epoch'."
    )
    summaries: Summaries = Field(
        "", description="Which value stands for the run, by glob: 'loss=min,eval/acc=max'; last, mean, none."
    )
    thinning: ThinningRules = Field(
        "", description="What a slow backend gets, by BACKEND:GLOB: 'mlflow:eval/*=none,mlflow:*=5s', '=10'."
    )
    config_may_differ: Globs = Field(
        CONFIG_MAY_DIFFER,
        description="Keys of the configuration that may differ between ranks unreported, as globs.",
    )
    system_prefix: str = Field(
        "tracker",
        pattern=r"^[A-Za-z0-9_-]{1,40}$",
        description="What the names of MLflow params begin with that describe the surroundings.",
    )
    learn_wait_s: float = Field(
        limits.LEARN_WAIT_S,
        ge=0,
        allow_inf_nan=False,
        description="How long a metric's first value waits for ranks that may report it too.",
    )
    partial_after_s: Seconds = Field(
        limits.PARTIAL_AFTER_S, description="When an aggregate is recorded without the ranks still missing."
    )
    lagging_after_cells: int = Field(
        limits.LAGGING_AFTER_CELLS,
        ge=1,
        description="How many values in a row a rank misses before it is waited for no longer.",
    )
    lost_timeout_s: Seconds = Field(
        limits.LOST_TIMEOUT_S, description="Silence after which a rank counts as lost."
    )
    restart_grace_s: float = Field(
        limits.RESTART_GRACE_S,
        ge=0,
        allow_inf_nan=False,
        description="How long a run that lost its last ranks waits for a new attempt before it ends.",
    )
    challenge_timeout_s: Seconds = Field(
        limits.CHALLENGE_TIMEOUT_S,
        description="How long a process whose rank another claims has to show that it lives.",
    )
    start_timeout_s: Seconds = Field(
        limits.START_TIMEOUT_S, description="Wait for ranks that never connected; then they are absent."
    )
    commit_window_s: float = Field(
        limits.COMMIT_WINDOW_S,
        ge=0,
        le=1,
        description="How long the journal gathers batches for one commit.",
    )
    history_bytes: ByteCount = Field(
        limits.HISTORY_BYTES_MAX, description="Budget for the ranks' own data kept after aggregation."
    )
    content_max_bytes: ByteCount = Field(
        limits.CONTENT_MAX_BYTES, description="The largest file that is taken of an artifact, image or table."
    )
    contents_max_bytes: ByteCount = Field(
        limits.CONTENTS_MAX_BYTES, description="Budget for files that are not delivered yet."
    )
    open_cells_bytes: ByteCount = Field(
        limits.OPEN_CELLS_BYTES_MAX, description="Budget for values that wait for further ranks."
    )
    snapshot_every_bytes: ByteCount = Field(
        limits.SNAPSHOT_EVERY_BYTES, description="Journalled bytes after which the aggregation is saved."
    )
    snapshot_every_s: Seconds = Field(
        limits.SNAPSHOT_EVERY_S, description="Time after which the aggregation is saved."
    )
    flush_interval_s: Seconds | None = Field(
        None, description="How often clients send. Unset: grows with the number of ranks."
    )
    drain_timeout_s: float = Field(
        limits.DRAIN_TIMEOUT_S,
        ge=0,
        allow_inf_nan=False,
        description="How long a daemon that ends goes on delivering; the journal keeps the rest.",
    )
    grace_s: Seconds | None = Field(
        None,
        description="What the batch system gives a job between SIGTERM and SIGKILL. Set, SIGTERM is "
        "the job's end: ranks have most of that time, then their runs end too.",
    )
    idle_timeout_s: Seconds | None = Field(
        None,
        description="End once no rank was connected for so long, no run is going on and all is delivered.",
    )
    orphan_timeout_s: Seconds | None = Field(
        None, description="End once for so long no rank was connected and nothing could be delivered."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = Field(
        "info", description="debug, info, warning or error."
    )
    log_format: Annotated[Literal["auto", "console", "json"], BeforeValidator(lower)] = Field(
        "auto", description="console, json, or auto: console on a terminal, else json."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is given: ``load`` lays environment and file below it, and remembers which won."""
        return (init_settings,)

    @model_validator(mode="after")
    def _partial_outlasts_flushes(self) -> Settings:
        longest = limits.FLUSH_INTERVAL_MAX_S if self.flush_interval_s is None else self.flush_interval_s
        if self.partial_after_s <= 2 * longest:
            msg = (
                f"partial_after_s = {self.partial_after_s:g} must exceed twice the longest flush interval "
                f"({longest:g} s), or ranks in good order would be missed; raise it or lower flush_interval_s"
            )
            raise ValueError(msg)
        return self

    @property
    def listen_at(self) -> list[str]:
        """``listen``; where only ``interface`` is said, all addresses."""
        if self.interface and "listen" not in self._origins:
            return ["0.0.0.0:0"]
        return self.listen

    @property
    def state_directory(self) -> Path:
        """``state_dir``, or where the service's own platform keeps state."""
        return self.state_dir or default_state_directory()

    @property
    def output_directory(self) -> Path:
        """``outdir``, or the working directory."""
        return self.outdir or Path.cwd()

    @property
    def backend_names(self) -> list[str]:
        """``backends`` as a list, each once, in order; empty for ``none``."""
        return split_backend_names(self.backends)

    def origin(self, name: str) -> str:
        """Where the value of ``name`` came from: a flag, a variable, a file or the default."""
        return self._origins.get(name, DEFAULT_ORIGIN)

    def remember_origins(self, origins: Mapping[str, str]) -> None:
        """What :meth:`origin` shall say."""
        self._origins.update(origins)


def default_state_directory() -> Path:
    """``$STATE_DIRECTORY`` (systemd sets it), else where the platform keeps a user's state."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return absolute(Path(given)) if given else platformdirs.user_state_path("tracker-daemon")


def flag_of(name: str) -> str:
    """The setting's form on the command line."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """The setting's form in the environment."""
    return ENVIRONMENT_PREFIX + name.upper()
