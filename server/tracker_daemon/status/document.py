"""The status document: the daemon's answer to a Status call, and its last status when it ends.

``status --json`` prints the document as the daemon sent it. These types read it: they ignore the fields
that a newer daemon adds, and have defaults for the fields that an older daemon lacks.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from tracker_daemon.errors import EndpointError

LAST_STATUS_FILE = "last-status.json"
"""The file in the state directory with the document as it was when the daemon ended."""


class ContentsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Files of tables, images and artifacts that are not delivered yet."""

    count: int = 0
    bytes: int = 0
    arriving_bytes: int = 0


class DaemonStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon itself."""

    version: str = ""
    pid: int = 0
    host: str = ""
    uptime_s: float = 0.0
    state_dir: str = ""
    endpoints: tuple[str, ...] = ()
    journal_bytes: int = 0
    epoch: int = 1
    draining: bool = False
    launch_id: str = ""
    """The launch that started the daemon; "" for a daemon that serves many."""
    contents: ContentsStatus = ContentsStatus()


class RankStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One rank of a run; ``last_seen_s`` is the time since its last contact, in seconds."""

    rank: int
    state: str = ""
    host: str = ""
    pid: int = 0
    last_step: int | None = None
    next_sequence: int = 1
    last_seen_s: float | None = None
    exit_code: int | None = None
    dropped_points: int = 0


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A node's daemon that forwards the run to this one. Its lane for files has an entry of its own."""

    host: str
    pid: int = 0
    state: str = ""
    next_sequence: int = 1
    last_seen_s: float | None = None


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """The number of values by fate: received = folded + open + late + rejected."""

    received: int = 0
    folded: int = 0
    open: int = 0
    late: int = 0
    rejected: int = 0
    duplicates: int = 0
    gap_points: int = 0
    evicted_rows: int = 0
    dropped_points: int = 0
    items: int = 0
    items_left_out: int = 0


class RecordsStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The records that the run has emitted."""

    emitted: int = 0


class BackendStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One backend of a run; emitted = delivered + thinned + pending + set_aside, in ``unit``.

    A backend's lane for files is called ``<backend>:files`` and counts items. ``thinned_points`` are the
    values that thinning left out, in whole records and of those delivered.
    """

    name: str
    unit: str = "records"
    state: str = ""
    reason: str | None = None
    delivered: int = 0
    pending: int = 0
    set_aside: int = 0
    thinned: int = 0
    thinned_points: int = 0
    set_aside_reason: str | None = None
    location: str | None = None


class EventStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a person should know of; ``time`` as the daemon wrote it."""

    time: str | float = ""
    text: str = ""


class RunStatusEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    run_id: str
    name: str = ""
    project: str = ""
    status: str = ""
    reason: str | None = None
    attempt: int = 1
    outdir: str = ""
    directory: str = ""
    """The run's own directory, where it is now; "" until there is one."""
    created: str | float | None = None
    ended: str | float | None = None
    world_size: int | None = None
    primary_rank: int = 0
    ranks: tuple[RankStatus, ...] = ()
    nodes: tuple[NodeStatus, ...] = ()
    """The nodes' daemons that forward the run here."""
    forwarded: bool = False
    """True if the run is only forwarded here: the root knows more of it, and counts are in batches."""
    metrics: int = 0
    books: Books = Books()
    records: RecordsStatus = RecordsStatus()
    backends: tuple[BackendStatus, ...] = ()
    events: tuple[EventStatus, ...] = ()


class StatusDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    daemon: DaemonStatus
    runs: tuple[RunStatusEntry, ...] = ()


def seconds_of(moment: str | float) -> float:
    """Convert a time of the document, ISO 8601 or seconds since the epoch, to seconds since the epoch."""
    if isinstance(moment, str):
        return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()
    return moment


_decoder = msgspec.json.Decoder(StatusDocument)


def decode(text: str | bytes) -> StatusDocument:
    """Read the document.

    Raises:
        EndpointError: the text is no status document.
    """
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError as error:
        msg = f"the daemon's status cannot be read ({error}); is it another version of tracker-daemon?"
        raise EndpointError(msg) from error


def read_last(state_dir: Path) -> StatusDocument | None:
    """Return the last status of an ended daemon in ``state_dir``; None if there is none."""
    try:
        return decode((state_dir / LAST_STATUS_FILE).read_bytes())
    except OSError:
        return None


def write_last(state_dir: Path, document: StatusDocument) -> None:
    """Write ``document`` to ``state_dir``, for :func:`read_last`.

    Raises:
        OSError: the file cannot be written.
    """
    path = state_dir / LAST_STATUS_FILE
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
    temporary.replace(path)
