"""The interface between delivery and a backend.

A backend stores the data of one run in one destination. Delivery calls :meth:`Backend.open` once, then
:meth:`Backend.deliver` with the entries of the run's outbox in order, and :meth:`Backend.close`.

Each delivery returns a *state*: bytes whose meaning only the backend knows. Delivery commits the state to the
journal together with the number of the last delivered entry. The next ``open``, perhaps after a crash,
receives the last committed state. The backend must then make its store agree with that state before it
accepts further entries. Exactly-once delivery rests on this alone. For example, a file backend truncates its
file to the offset in the state. A backend with an SDK continues the run whose id is in the state.

A minimal backend implements ``open``, ``deliver`` and ``close``. The other methods have defaults for a
backend that accepts every entry, never waits and has nothing to show.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from tracker_daemon.errors import BackendUnavailable
from tracker_daemon.files.layout import Layout
from tracker_daemon.files.manifest import DAEMON
from tracker_daemon.files.run_directory import KnownDirectory, RunPlace
from tracker_daemon.files.run_names import run_directory_name
from tracker_daemon.outbox.entries import OutboxEntry
from tracker_daemon.rules.metric_rules import MetricSettings

Commit = Callable[[bytes], None]
"""Commits a new state at the position reached so far; returns once the state is durable in the journal."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """A part of an entry that the store refuses, while the rest of the entry is stored."""

    entry: int
    """The entry's number."""
    records: int
    """The number of the entry's records that are missing or incomplete; 0 if another part is missing."""
    reason: str
    """The store's reason, for people."""


class RunStatus(str, Enum):
    """The status of a run."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class RunDescription:
    """The run that a backend is opened for."""

    run_id: str
    project: str
    name: str
    outdir: Path
    """The output directory, an absolute path on this host. Several runs may share it."""
    epoch: int = 1
    """The journal's epoch. Above 1 the journal has lost data, so a backend must not truncate its store."""
    attempt: int = 1
    """The number of the run's attempt, from 1; a restarted job continues its run as the next attempt."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The script's options for this backend: run name, tags, group, mode …"""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The training script as the rank that opened the run describes it: user, program, host, git state …"""
    contents: Path = Path()
    """The directory of the items' contents, see ``content_path``. Read only; copy a content to keep it."""
    files_lane: bool = False
    """True if this instance receives FILES entries alone, and another one all other entries of the run."""
    metrics: MetricSettings = field(default_factory=MetricSettings)
    """The run's rules for single metrics."""
    created_ns: int = 0
    """The run's beginning, in ns since the Unix epoch; 0 means now."""
    system_prefix: str = "tracker"
    """The first part of the names of params that describe the script and its host."""
    mlflow_own_name: str = "plain"
    """The name in MLflow of the own value of a metric with aggregates, unless the script's options say it."""
    layout: Layout = Layout.BASE
    """The place of the run's own directory within ``outdir``."""
    directory: Path | None = None
    """The run's own directory, where that is known already."""
    directory_id: str = ""
    """The id of ``directory``, see ``Header.directory_id``."""
    label: str = ""
    """The name in the name of the run's directory; if empty, ``name``, else ``project``."""
    resumes: bool = False
    """True if somebody named the run's id, so that the run may have a directory from before."""
    writer: str = DAEMON
    """The writer of the run's files, see ``files.manifest``."""

    @property
    def place(self) -> RunPlace:
        """The run as it needs a directory."""
        label = self.label or self.name or self.project or self.run_id
        name = run_directory_name(self.created_ns or time.time_ns(), label)
        return RunPlace(
            self.outdir, self.run_id, name, self.layout, self.project, self.writer, resumes=self.resumes
        )

    @property
    def known_directory(self) -> KnownDirectory | None:
        """``directory`` as the run remembers it; None if it has none yet."""
        return None if self.directory is None else KnownDirectory(self.directory, self.directory_id)


class Backend(ABC):
    """One destination for one run.

    Methods are called from one thread at a time, never from the daemon's event loop, so they may block.

    Raises:
        BackendUnavailable: from ``open``, ``deliver`` and ``trouble``: the store cannot be reached or written
            now. Delivery opens the backend again later, with the last committed state, and retries for ever.
        BackendRefused: from the same methods: the store needs the user's help (credentials, permissions, a
            deleted run). Delivery pauses and shows the reason.
    """

    name: ClassVar[str]
    """The backend's name in settings, in status and in the names of its cursors."""
    separate_files: ClassVar[bool] = False
    """True if FILES entries are delivered in a lane of their own, so that a long copy delays no metric.

    Another instance then receives them, on another thread and in no fixed order with the other entries. Both
    lanes receive the END entry.
    """
    place_in_run: ClassVar[str | None] = None
    """The path of :meth:`location` within the run's directory, which may move; None if it is elsewhere."""

    @abstractmethod
    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Prepare the store and make it agree with ``state``; None if no state was ever committed.

        After an error delivery closes the instance and opens the same instance again later.
        """

    def count_ready(self, entries: Sequence[OutboxEntry]) -> int:
        """Return how many of ``entries``, counted from the first, can be delivered now.

        The default is all. A backend that must see later entries first returns fewer; at 0 delivery reads on
        and asks again with more entries.
        """
        return len(entries)

    @abstractmethod
    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:
        """Store ``entries`` durably and return the state that reflects them.

        Entries of a kind that the backend does not know are skipped. ``commit`` may be called during a
        delivery, for a state that must be in the journal before the next step.

        Raises:
            PoisonEntry: an entry can never be stored. Delivery finds that entry, sets it aside and continues
                with the next one.
        """

    def set_aside(self) -> Sequence[SetAside]:
        """Return the parts of the last delivery's entries that the store refused, at most one per entry."""
        return ()

    def trouble(self) -> str:
        """Return why delivered data is not uploaded yet; "" if nothing blocks the upload.

        Called after each delivery, and now and then while there is nothing to deliver.
        """
        return ""

    def may_be_resumed(self) -> bool:
        """Return True if the cause of the last refusal (credentials, say) may be gone.

        Called while delivery is paused. True makes delivery open the backend at once.
        """
        return False

    @abstractmethod
    def close(self) -> None:
        """Release the files, connections and processes of this instance.

        The run itself may continue in another instance: it ends with its END entry.
        """

    def files_backend(self) -> Backend:
        """Return the backend for the lane for files; called only if :attr:`separate_files` is True."""
        return self

    def location(self) -> str | None:
        """Return the path or URL at which a person finds the run; None if there is nothing to show."""
        return None

    def known_handles(self, run: RunDescription) -> Mapping[str, str]:  # noqa: ARG002 - for backends that know some
        """Return the handles that are known before the run is opened, and never change."""
        return {}

    def handles(self) -> Mapping[str, str]:
        """Return the names by which a script finds its run; empty while they are unknown.

        Keys are ``id``, ``url``, ``run_id`` and the like. No value may hold a secret.
        """
        return {}

    @property
    def reachable(self) -> bool:
        """True if waiting for this backend can help; False while nothing is there to receive entries."""
        return True


def not_open(backend: str) -> BackendUnavailable:
    """Return the error for a call before ``open`` or after ``close``; ``backend`` is its name for people."""
    return BackendUnavailable(f"the {backend} backend is not open; open it with the last committed state")
