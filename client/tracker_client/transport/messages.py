"""The messages of a stream, as frozen values that know neither gRPC nor protobuf."""

from __future__ import annotations

from dataclasses import dataclass, field

from tracker_client.backends.handles import HandlesAnswer
from tracker_client.backends.script_entries import DeliveredEntry
from tracker_client.settings.metric_options import MetricOptions
from tracker_protocol.host_processes import HostProcess

REFUSALS = frozenset(
    ("UNAUTHENTICATED", "FAILED_PRECONDITION", "ALREADY_EXISTS", "INVALID_ARGUMENT", "PERMISSION_DENIED")
)
"""Status codes with which a daemon refuses a client: a new attempt soon will not help."""


@dataclass(frozen=True)
class Introduction:
    """The part of a Hello that is the same for all connections of a stream."""

    stream_id: bytes
    launch_key: str
    project: str
    name: str
    ordinal: int
    run_id: str
    rank: int
    world_size: int
    local_rank: int
    rank_source: str
    host: str
    pid: int
    client_version: str
    working_directory: str
    backends: str | None
    outdir: str | None
    primary_rank: int | None
    record_ranks: str | None
    backend_options: str | None
    environment: str
    restarts: int
    process_id: bytes = b""
    agent: str = ""
    run_key: str = ""
    item_ranks: str | None = None
    script_backends: tuple[str, ...] = ()
    metrics: MetricOptions = field(default_factory=MetricOptions)
    pid_space: str = ""
    """See :mod:`tracker_protocol.host_processes`; "" without /proc."""
    start_ticks: int = 0
    ancestors: tuple[HostProcess, ...] = ()
    default_outdir: str | None = None

    @property
    def is_primary(self) -> bool:
        """True if this is the primary rank, as far as the script says."""
        return self.rank == (self.primary_rank or 0)


# ---- from the daemon -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Forwarder:
    """A node's daemon: its ``host`` and ``state_directory``, and the ``root`` that it forwards to."""

    root: str
    host: str
    state_directory: str


@dataclass(frozen=True)
class Welcome:
    """The daemon admits this stream."""

    run_id: str
    attempt: int
    next_sequence: int
    next_step: int
    flush_interval_s: float
    run_name: str
    outdir: str
    records_items: bool = False
    """True if the daemon records this rank's items."""
    backends: tuple[str, ...] = ()
    """The run's backends."""
    script_backends: tuple[str, ...] = ()
    """The run's backends that are classes of the script; this stream delivers their records."""
    forwarder: Forwarder | None = None
    """The daemon, if it forwards to a root; None if it records itself."""


@dataclass(frozen=True)
class Acknowledgement:
    """Every batch up to ``sequence`` is durable."""

    sequence: int
    flush_interval_s: float
    """The flush interval that the daemon asks for; 0 for no change."""


@dataclass(frozen=True)
class Delivered:
    """Every backend of the daemon, or its files, have everything that this stream sent.

    ``missing``: a sentence about the rows that the files lack; "" if they lack none. ``recorded``: no backend
    is meant, but the journal of the daemon that records.
    """

    missing: str = ""
    recorded: bool = False


@dataclass(frozen=True)
class Notice:
    """A sentence for the user."""

    text: str


@dataclass(frozen=True)
class RunDirectory:
    """The directory of the run's files, on the daemon's host."""

    path: str


@dataclass(frozen=True)
class Challenge:
    """The daemon's question if this process still lives, since another process claims its rank."""

    nonce: bytes


@dataclass(frozen=True)
class ConnectionClosed:
    """The end of a connection; ``code`` is gRPC's name of the status."""

    code: str
    details: str

    @property
    def is_refusal(self) -> bool:
        """True if the daemon refuses this client as it is."""
        return self.code in REFUSALS


Reply = (
    Welcome
    | Acknowledgement
    | Delivered
    | Notice
    | DeliveredEntry
    | HandlesAnswer
    | RunDirectory
    | Challenge
    | ConnectionClosed
)
