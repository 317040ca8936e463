"""What delivery asks of a backend.

A backend receives the entries of one run's outbox in order. After each delivery it hands back an
opaque *state*, which delivery commits to the journal together with the position reached; at the
next opening, after a crash perhaps, the backend gets the last committed state and must make its
store agree with it before it takes more. That is the whole of exactly-once: a file backend
truncates to the offset in its state, an SDK backend continues its own run by id.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from tracker_daemon.outbox.entries import OutboxEntry
from tracker_daemon.rules.metric_rules import MetricSettings

Commit = Callable[[bytes], None]
"""Durably records a backend's new state at the position reached so far; returns once committed."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """What of an entry a backend's store refuses, while the rest of the entry is stored."""

    entry: int
    """The entry's number."""
    records: int
    """How many of its records are not stored, or not whole; 0 where it is something else that is missing."""
    reason: str


class RunStatus(str, Enum):
    """How a run stands."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class RunDescription:
    """The run that a backend is opened for. ``outdir`` is absolute, on this host."""

    run_id: str
    project: str
    name: str
    outdir: Path
    epoch: int = 1
    """The journal's epoch: above 1, the journal has lost something, and nothing may be truncated."""
    attempt: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    """This backend's own options, as the script gave them: run name, tags, group, mode …"""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the rank that opened the run said of its script: user, program, host, git state …"""
    contents: Path = Path()
    """Where the contents of items are, see ``content_path``; to be read, and kept only by a copy."""
    files_lane: bool = False
    """This opening is for FILES entries alone, beside another of the same run for all others."""
    metrics: MetricSettings = field(default_factory=MetricSettings)
    """The run's rules by metric."""
    created_ns: int = 0
    """When the run began, in ns since the epoch; 0: now."""
    system_prefix: str = "tracker"
    """What the names of params that describe the surroundings begin with."""


class Backend(ABC):
    """One destination for one run. Called from one thread at a time, never from the event loop."""

    name: ClassVar[str]
    separate_files: ClassVar[bool] = False
    """Whether FILES entries come in a lane of their own: by another instance, on another thread and in no
    order with the other entries, so that a long copy delays no metric. END comes in both lanes."""

    @abstractmethod
    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Prepare the store and bring it to ``state`` (None: nothing was ever committed).

        Raises:
            BackendUnavailable: the store cannot be reached or written now; delivery retries.
            BackendRefused: it needs the user's help (credentials, permissions); delivery pauses.
        """

    def count_ready(self, entries: Sequence[OutboxEntry]) -> int:
        """How many of the entries, from the first, it can take before it has seen more. Usually all."""
        return len(entries)

    @abstractmethod
    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:
        """Store ``entries`` durably and return the state that reflects them.

        ``commit`` may be called on the way, for a step that must be on record before the next.
        Raises as :meth:`open` does, and PoisonEntry for an entry that can never be stored.
        """

    def set_aside(self) -> Sequence[SetAside]:
        """What of the entries of the last delivery its store refused; one each at most. Usually nothing."""
        return ()

    def trouble(self) -> str:
        """What keeps what was delivered from getting further, while it goes on trying; "" for nothing.

        Asked for after each delivery, and now and then while there is nothing to deliver. Raises as
        :meth:`open` does.
        """
        return ""

    def may_be_resumed(self) -> bool:
        """Whether what a refusal came of may have changed since the last opening. Asked for while paused."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Release what is held. The run itself ended with its END entry, if it did."""

    def files_backend(self) -> Backend:
        """A backend for the lane for files; asked for only where these are separate."""
        return self

    def location(self) -> str | None:
        """Where a person finds the run: a path or a URL. None when there is nothing to show."""
        return None

    def handles(self) -> Mapping[str, str]:
        """How its run is found, by name: ``id``, ``url``, ``run_id`` …; no secrets. Empty while unknown."""
        return {}

    @property
    def reachable(self) -> bool:
        """Whether there is any point in waiting for it now: False while nobody is there to take anything."""
        return True
