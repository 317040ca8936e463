"""The daemon's settings: one class, and what a setting is called in its three forms.

Every setting has one name in three forms: the flag ``--learn-wait-s``, the variable
``TRACKER_LEARN_WAIT_S`` and the key ``learn_wait_s`` of the TOML file that ``--config`` or
``TRACKER_CONFIG`` names. :mod:`tracker_daemon.settings.loading` puts these on one another;
constructing :class:`Settings` itself reads neither environment nor file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from tracker_daemon.files.layout import Layout
from tracker_daemon.settings.directories import absolute, default_state_directory
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
    lower,
)
from tracker_protocol import limits
from tracker_protocol.backend_names import split_backend_names
from tracker_protocol.run_files import DEFAULT_OUTPUT_DIRECTORY

ENVIRONMENT_PREFIX = "TRACKER_"
DEFAULT_ORIGIN = "default"


class Settings(BaseModel):
    """The settings of a daemon. Paths are absolute; names end in their unit (``_s`` seconds, ``_bytes``)."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    config: AbsolutePath | None = Field(None, description="TOML file with settings.")
    listen: Addresses = Field(
        ["127.0.0.1:0"],
        description="Addresses to listen at, separated by commas: `host:port` (port 0 chooses a free port) "
        "or `unix:/path`.",
    )
    interface: Names = Field(
        [],
        description="Network interfaces whose addresses clients try first, separated by commas: `hsn0`. "
        "A daemon at `0.0.0.0` or `[::]` offers all addresses of its host. With `interface` and without "
        "`listen`, the daemon listens at `0.0.0.0`.",
    )
    tls: bool = Field(
        False,
        description="Encrypt, with a certificate that the daemon makes in the state directory. "
        "Needs `pip install 'tracker-daemon[tls]'`.",
    )
    tls_cert: AbsolutePath | None = Field(
        None, description="Encrypt with this certificate: a PEM file with the chain. Needs `tls_key`."
    )
    tls_key: AbsolutePath | None = Field(None, description="The private key of `tls_cert`: a PEM file.")
    token: Token | None = Field(
        None,
        description="Token that every client must send. Unset: the daemon makes one and keeps it in the "
        "state directory. Set it for nodes that share no file.",
    )
    upstream: str | None = Field(
        None,
        description="The root to forward to; this daemon then records nothing itself. `host:port` (several, "
        "separated by commas), `unix:/path` or the root's endpoint file. For a daemon on each node of a job.",
    )
    upstream_token: Token | None = Field(
        None,
        description="The root's token. Unset: the token in the root's endpoint file, else `token`.",
    )
    upstream_tls_root: AbsolutePath | None = Field(
        None,
        description="Certificate to verify the root with: a PEM file. Needed if `upstream` is a `host:port`.",
    )
    endpoint_file: AbsolutePath | None = Field(
        None,
        description="File to write the daemon's addresses and token to, with mode 0600. The daemon writes "
        "it once it is ready; clients read it to connect.",
    )
    state_dir: AbsolutePath | None = Field(
        None,
        description="Directory of the journal; one daemon each. Unset: `OUTDIR/.tracker` for `run` and for "
        "a script's own daemon, the platform's state directory for `serve`.",
    )
    outdir: AbsolutePath | None = Field(
        None,
        description="Output directory: of MLflow's database, of W&B's files and of the runs. Unset: "
        "`./tracker-runs`. `run` records in OUTDIR itself, or in `./tracker-runs/<time>-<name>`; `serve` in "
        "`OUTDIR/<project>/<time>-<name>`.",
    )
    backends: CommaSeparated = Field(
        "wandb",
        description="Backends of runs that name none, separated by commas. `none` records nowhere.",
    )
    primary_rank: int = Field(
        0, ge=0, lt=limits.WORLD_SIZE_MAX, description="The rank whose own value is the plain metric."
    )
    record_ranks: Ranks = Field(
        "", description="Further ranks whose own values are recorded: `0,8-15` or `all`."
    )
    item_ranks: Ranks = Field(
        "",
        description="Further ranks whose tables, images, artifacts and histograms are recorded: `0,8-15` "
        "or `all`.",
    )
    reporters: Reporters = Field(
        "",
        description="The ranks that report a metric, by glob: `lr=primary,eval/*=primary` (or `=all`). "
        "The daemon learns the reporters of every other metric.",
    )
    aggregates: Aggregates = Field(
        "",
        description="Aggregates to record, by glob: `lr=none,loss=mean+max`. Choose from `mean`, `min`, "
        "`max`, `std` and `count`, or `all` or `none`. Every other metric has all.",
    )
    step_axes: StepAxes = Field(
        "",
        description="The metric to draw other metrics over, by glob: `eval/*=epoch`. "
        "Every other metric is drawn over the step.",
    )
    summaries: Summaries = Field(
        "",
        description="The value that summarises a metric, by glob: `loss=min,eval/acc=max`. Choose from "
        "`last`, `min`, `max`, `mean` and `none`. Every other metric has its last value.",
    )
    thinning: ThinningRules = Field(
        "",
        description="The values that a slow backend gets, by backend and glob: "
        "`mlflow:eval/*=none,mlflow:*=5s`. `5s` keeps the first, last, least and greatest value of a metric "
        "in every 5 s; `10` keeps every tenth value; `none` keeps all. Every other backend gets all values.",
    )
    config_may_differ: Globs = Field(
        CONFIG_MAY_DIFFER,
        description="Configuration keys that may differ between ranks without a warning, as globs "
        "separated by commas.",
    )
    system_prefix: str = Field(
        "tracker",
        pattern=r"^[A-Za-z0-9_-]{1,40}$",
        description="First part of the names of MLflow params that describe the script and its host. "
        "`ezpz` keeps the saved searches of users of `ezpz.tracker` valid.",
    )
    mlflow_own_name: Literal["plain", "local"] = Field(
        "plain",
        description="Name in MLflow of the own value of a metric with aggregates: `plain` is `loss`, `local` "
        "is `loss/local`, as in `ezpz.tracker`. A file store cannot hold both, and always has `loss/local`.",
    )
    learn_wait_s: float = Field(
        limits.LEARN_WAIT_S,
        ge=0,
        allow_inf_nan=False,
        description="How long the first value of a metric waits for other ranks that may report it too.",
    )
    partial_after_s: Seconds = Field(
        limits.PARTIAL_AFTER_S,
        description="How long an aggregate waits for missing ranks. Then it is recorded without them.",
    )
    lagging_after_cells: int = Field(
        limits.LAGGING_AFTER_CELLS,
        ge=1,
        description="A rank that misses this many values in a row is no longer waited for.",
    )
    lost_timeout_s: Seconds = Field(
        limits.LOST_TIMEOUT_S, description="A rank that is silent for this long counts as lost."
    )
    restart_grace_s: float = Field(
        limits.RESTART_GRACE_S,
        ge=0,
        allow_inf_nan=False,
        description="How long a run that has lost its last rank waits for a new attempt before it ends.",
    )
    challenge_timeout_s: Seconds = Field(
        limits.CHALLENGE_TIMEOUT_S,
        description="If two processes claim one rank, how long the first has to answer that it lives.",
    )
    primary_wait_s: float = Field(
        limits.PRIMARY_WAIT_S,
        ge=0,
        allow_inf_nan=False,
        description="How long other ranks wait for the run's primary rank before they begin without it.",
    )
    start_timeout_s: Seconds = Field(
        limits.START_TIMEOUT_S,
        description="How long a run waits for ranks that never connected. Then they count as absent.",
    )
    commit_window_s: float = Field(
        limits.COMMIT_WINDOW_S,
        ge=0,
        le=1,
        description="How long the journal gathers batches for one commit.",
    )
    history_bytes: ByteCount = Field(
        limits.HISTORY_BYTES_MAX, description="Budget for the ranks' own data that is kept after aggregation."
    )
    content_max_bytes: ByteCount = Field(
        limits.CONTENT_MAX_BYTES, description="The largest file of an artifact, image or table."
    )
    contents_max_bytes: ByteCount = Field(
        limits.CONTENTS_MAX_BYTES, description="Budget for files that are not yet delivered."
    )
    open_cells_bytes: ByteCount = Field(
        limits.OPEN_CELLS_BYTES_MAX, description="Budget for values that wait for further ranks."
    )
    snapshot_every_bytes: ByteCount = Field(
        limits.SNAPSHOT_EVERY_BYTES,
        description="The daemon saves the state of the aggregation after this much journalled data, so that "
        "a restart replays little.",
    )
    snapshot_every_s: Seconds = Field(
        limits.SNAPSHOT_EVERY_S, description="The daemon saves the state of the aggregation this often."
    )
    flush_interval_s: Seconds | None = Field(
        None, description="How often clients send. Unset: 0.2 s to 2 s, growing with the number of ranks."
    )
    drain_timeout_s: float = Field(
        limits.DRAIN_TIMEOUT_S,
        ge=0,
        allow_inf_nan=False,
        description="How long a daemon that ends continues to deliver. The journal keeps the rest.",
    )
    grace_s: Seconds | None = Field(
        None,
        description="Time that the batch system gives a job between SIGTERM and SIGKILL (PBS 10, Slurm and "
        "Kubernetes 30). If set, SIGTERM is the job's end: the ranks have most of this time, then their "
        "runs end.",
    )
    idle_timeout_s: Seconds | None = Field(
        None,
        description="The daemon ends once no rank was connected for this long, no run is live and all is "
        "delivered. Unset: never; 10 for a script's own daemon. `run` ignores it.",
    )
    orphan_timeout_s: Seconds | None = Field(
        None,
        description="The daemon ends once no rank was connected and nothing could be delivered for this "
        "long; missing ranks count as lost. Unset: never; 300 for a script's own daemon. `run` ignores it.",
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = Field(
        "info", description="`debug`, `info`, `warning` or `error`."
    )
    log_format: Annotated[Literal["auto", "console", "json"], BeforeValidator(lower)] = Field(
        "auto", description="`console`, `json`, or `auto`: console on a terminal, else JSON."
    )

    @model_validator(mode="after")
    def _partial_outlasts_flushes(self) -> Settings:
        longest = limits.FLUSH_INTERVAL_MAX_S if self.flush_interval_s is None else self.flush_interval_s
        if self.partial_after_s <= 2 * longest:
            msg = (
                f"partial_after_s = {self.partial_after_s:g} must exceed twice the longest flush interval "
                f"({longest:g} s), or healthy ranks count as missing; raise it or lower flush_interval_s"
            )
            raise ValueError(msg)
        return self

    @property
    def listen_at(self) -> list[str]:
        """The addresses of ``listen``; if only ``interface`` is given, all addresses of the host."""
        if self.interface and "listen" not in self._origins:
            return ["0.0.0.0:0"]
        return self.listen

    @property
    def state_directory(self) -> Path:
        """``state_dir``, or where the service's own platform keeps state."""
        return self.state_dir or default_state_directory()

    @property
    def output_directory(self) -> Path:
        """``outdir``, or ``tracker-runs`` in the working directory."""
        return self.outdir or absolute(Path(DEFAULT_OUTPUT_DIRECTORY))

    @property
    def launch_layout(self) -> Layout:
        """The place of the runs of one launch: the output directory itself if the user has named it."""
        return Layout.NAME if self.origin("outdir") == DEFAULT_ORIGIN else Layout.BASE

    @property
    def backend_names(self) -> list[str]:
        """``backends`` as a list, each once, in order; empty for ``none``."""
        return split_backend_names(self.backends)

    def origin(self, name: str) -> str:
        """Return the source of the value of ``name``: a flag, a variable, a file or the default."""
        return self._origins.get(name, DEFAULT_ORIGIN)

    def remember_origins(self, origins: Mapping[str, str]) -> None:
        """Note the sources that :meth:`origin` returns; a setting without one has its default."""
        self._origins.update(origins)


def flag_of(name: str) -> str:
    """The setting's form on the command line."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """The setting's form in the environment."""
    return ENVIRONMENT_PREFIX + name.upper()
