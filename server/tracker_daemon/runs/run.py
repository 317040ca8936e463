"""Runs and the streams of their ranks, as the event loop knows them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from tracker_daemon.aggregation.shared.stream import NODE
from tracker_daemon.journal.rows import RUNNING, RunRow
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.runs.run_options import RunOptions
from tracker_protocol.v1 import tracker_pb2 as pb


class LiveStream(Protocol):
    """The connection of a stream, as far as the registry needs it."""

    def wake(self) -> None:
        """Acknowledge what is durable by now."""

    def supersede(self) -> None:
        """End this connection: the same process has connected again."""

    def challenge(self, nonce: bytes) -> None:
        """Ask whether the process lives."""

    def tell(self, text: str) -> None:
        """Have a sentence shown to the user."""


@dataclass(slots=True, eq=False)
class Claim:
    """Another process claims a stream's rank: how its process shows that it lives, and until when."""

    nonce: bytes
    until_s: float
    answered: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class Stream:
    """One process of a rank. ``next_sequence`` counts what is submitted, committed or not."""

    stream_id: bytes
    run: Run
    rank: int
    attempt: int
    host: str
    pid: int
    next_sequence: int = 1
    names_known: int = 0
    connection: LiveStream | None = None
    last_seen_s: float = field(default_factory=time.monotonic)
    finished: bool = False
    lost: bool = False
    duplicates: int = 0
    answers_challenges: bool = False
    restarts: int | None = None
    """How often torchrun had started the process's group again; None if that is not known any more."""
    reserved_until_s: float = 0.0
    """Until when, once disconnected, nobody else gets its rank unasked."""
    told: set[str] = field(default_factory=set)
    """What its user was told of the run's backends."""
    claim: Claim | None = None

    @property
    def is_node(self) -> bool:
        """Whether it is that of a node's daemon."""
        return self.rank == NODE

    def note_contact(self, answer: bytes | None = None) -> None:
        """Something came from the process: to a claim on its rank, the right answer counts."""
        self.last_seen_s = time.monotonic()
        if self.claim is not None and (answer == self.claim.nonce or not self.answers_challenges):
            self.claim.answered.set()

    def reserve(self, seconds: float) -> None:
        """Keep the rank for its process, which is not connected yet, or not any more."""
        self.reserved_until_s = time.monotonic() + seconds

    def note_return(self, *, answers_challenges: bool) -> None:
        """The process has connected again, which answers every claim on its rank."""
        self.lost = False
        self.answers_challenges = answers_challenges
        if self.claim is not None:
            self.claim.answered.set()

    def may_return(self) -> bool:
        """Whether its process may still be there, so that its rank is not free."""
        waiting = self.connection is not None or time.monotonic() < self.reserved_until_s
        return waiting and not self.finished and not self.lost

    @property
    def source(self) -> str:
        """Whose data it brings, in words."""
        return f"the daemon on {self.host}" if self.is_node else f"rank {self.rank}"

    def described(self) -> str:
        """How an error names it."""
        return f"process {self.pid} on {self.host}"


@dataclass(slots=True, eq=False)
class Run:
    """One run, with the streams of all its attempts."""

    row: RunRow
    options: RunOptions
    live: LiveRun
    streams: dict[bytes, Stream] = field(default_factory=dict)
    by_rank: dict[tuple[int, int], Stream] = field(default_factory=dict)
    attempt: int = 1
    world_size: int = 0
    backends: list[str] = field(default_factory=list)
    """That have a cursor, those of the script among them."""
    script_backends: set[str] = field(default_factory=set)
    waiting_since_s: float = field(default_factory=time.monotonic)
    """When the wait for the attempt's ranks began."""
    absent_told: bool = False
    visited: bool = False
    """Whether a rank has been connected since the daemon started."""
    reopening: bool = False
    """Resumed after its end, which is not journalled yet."""

    @property
    def run_id(self) -> str:
        """The run's name to the outside."""
        return self.row.run_id

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        # In this order: the recorder's thread first sets the status, then takes the mark away.
        return self.reopening or self.live.view.status == RUNNING

    def current(self) -> Iterator[Stream]:
        """The streams of the current attempt."""
        return (s for (attempt, _), s in self.by_rank.items() if attempt == self.attempt)

    def is_restarted_by(self, process: pb.Process) -> bool:
        """Whether torchrun says that it has started ``process`` in the place of ranks of this attempt.

        It counts for each of its agents, so only the ranks of the same host compare, and it has ended
        the ones before. Agents that share a host may count apart: a connected rank is not replaced.
        """
        return any(
            s.restarts is not None and s.restarts < process.restarts and s.connection is None
            for s in self.current()
            if s.host == process.host
        )

    def is_resized_by(self, process: pb.Process) -> bool:
        """Whether ``process`` is of a launch with another number of ranks, of which none is here yet."""
        differs = 0 < process.world_size != self.world_size > 0
        return differs and self.is_deserted()

    def is_back(self) -> bool:
        """Whether every rank that has come is connected, or will not come any more."""
        return all(s.connection is not None or s.finished or s.lost for s in self.current())

    def is_deserted(self) -> bool:
        """Whether no rank of the current attempt is connected."""
        return all(stream.connection is None for stream in self.current())

    def expects_more_ends(self) -> bool:
        """Whether a rank that has not ended, as far as is known, may come back to say that it has."""
        return any(s.connection is None and s.may_return() for s in self.current())

    def size(self) -> int:
        """How many ranks the attempt has; 0 where nobody has said so."""
        # After a restart the fold knows it before a client says it again.
        return max(self.world_size, self.live.view.world_size)

    def missing(self) -> list[int]:
        """The ranks of the attempt that have not come."""
        came = {stream.rank for stream in self.current()}
        return [rank for rank in range(self.size()) if rank not in came]

    def is_quiet(self) -> bool:
        """Whether none of its streams is connected, and its fold is not in use."""
        connected = any(stream.connection is not None for stream in self.streams.values())
        return not connected and self.live.fold is None

    def open_attempt(self) -> None:
        """A rank has come again: begin the next attempt, and wait for its ranks anew."""
        self.attempt += 1
        self.world_size = 0  # an elastic restart may have fewer ranks than before
        self.waiting_since_s = time.monotonic()
        self.absent_told = False


@dataclass(frozen=True, slots=True)
class Admission:
    """What was decided about a Hello, and is to be journalled. ``reopened``: its run had ended."""

    stream: Stream
    new_run: bool = False
    new_stream: bool = False
    reopened: bool = False
    new_attempt: bool = False
    describes: bool = False
    """The primary rank has come, after another had opened the run."""
