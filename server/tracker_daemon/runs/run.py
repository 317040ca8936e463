"""A run and the streams of its ranks, as the event loop knows them.

Some of this state is also in the run's fold: the attempt, the world size, and the finished and lost ranks.
The two may differ for a moment. The event loop decides about clients at once, before the commit. The fold
has the committed state, belongs to the recorder's thread, and is in memory only while the run needs it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from tracker_daemon.aggregation.shared.stream import NODE
from tracker_daemon.aggregation.values.batch import DecodedBatch
from tracker_daemon.backends.base import RunStatus
from tracker_daemon.journal.rows import RUNNING, RunRow
from tracker_daemon.processes.host_watch import Place
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.runs.run_options import RunOptions
from tracker_protocol.host_processes import pid_space, start_ticks
from tracker_protocol.v1 import tracker_pb2 as pb


class LiveStream(Protocol):
    """The connection of a stream, as the registry uses it."""

    def wake(self) -> None:
        """Acknowledge what is durable by now."""

    def supersede(self) -> None:
        """End this connection: the same process has connected again."""

    def challenge(self, nonce: bytes) -> None:
        """Ask the process to show that it lives."""

    def send_notice(self, text: str) -> None:
        """Show a sentence to the user."""

    def send_directory(self, path: str) -> None:
        """Send the directory of the run's files to the rank."""


@dataclass(slots=True, eq=False)
class Claim:
    """Another process's claim to a stream's rank: what the holder must answer, and until when."""

    nonce: bytes
    until_s: float
    answered: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class Stream:
    """One process of a rank. ``next_sequence`` is that of the next batch to submit."""

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
    """The number of restarts of the process's group by torchrun; None after a restart of this daemon."""
    reserved_until_s: float = 0.0
    """The monotonic time until which the disconnected process keeps its rank."""
    notices_sent: set[str] = field(default_factory=set)
    """The notices about the run's backends that the user has received."""
    rejections: list[str] = field(default_factory=list)
    """Sentences about rejected batches, which the user receives over the next connection."""
    claim: Claim | None = None
    process: bytes = b""
    """The id of the process, which all its streams share; empty for a node's daemon."""
    agent: str = ""
    """Torchrun's agent that started the process; "" under every other launcher."""
    place: Place | None = None
    """The process on its host; None if the client did not say, or has not connected to this daemon."""
    gone_since_s: float | None = None
    """The monotonic time at which the process was first seen gone."""

    @property
    def is_node(self) -> bool:
        """True if this is the stream of a node's daemon."""
        return self.rank == NODE

    def note_contact(self, answer: bytes | None = None) -> None:
        """Note a message of the process; ``answer`` is its answer to a challenge.

        A claim to the rank counts as answered by the right answer, or by any message of a client that cannot
        answer challenges.
        """
        self.last_seen_s = time.monotonic()
        if self.claim is not None and (answer == self.claim.nonce or not self.answers_challenges):
            self.claim.answered.set()

    def reserve(self, seconds: float) -> None:
        """Keep the rank for its disconnected process, for ``seconds`` from now."""
        self.reserved_until_s = time.monotonic() + seconds

    def note_end(self, end: DecodedBatch) -> None:
        """Note the end of the process: its last batch, or its node's report that it is lost."""
        self.finished = self.finished or end.ends
        self.lost = self.lost or end.lost

    def note_return(self, *, answers_challenges: bool) -> None:
        """Note that the process has reconnected, which answers every claim to its rank."""
        self.lost = False
        self.gone_since_s = None
        self.answers_challenges = answers_challenges
        if self.claim is not None:
            self.claim.answered.set()

    def may_return(self) -> bool:
        """Return True if the process may still live, so that its rank is not free."""
        waiting = self.connection is not None or time.monotonic() < self.reserved_until_s
        return waiting and not self.finished and not self.lost

    @property
    def source(self) -> str:
        """The sender of the stream's data, for messages."""
        return f"the daemon on {self.host}" if self.is_node else f"rank {self.rank}"

    def label(self) -> str:
        """Return the name of the process for messages."""
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
    """The backends with a cursor, classes of the script included."""
    script_backends: set[str] = field(default_factory=set)
    waiting_since_s: float = field(default_factory=time.monotonic)
    """The monotonic time at which the wait for the attempt's ranks began."""
    last_hello_s: float = field(default_factory=time.monotonic)
    """The monotonic time of the last Hello of a new process."""
    absence_reported: bool = False
    """True once the attempt's absent ranks have been reported."""
    visited: bool = False
    """True once a rank has been connected to this process of the daemon."""
    reopening: bool = False
    """True from a resumption after the run's end until its commit."""
    named: tuple[str, str] = ("", "")
    """The project and the name that the primary rank gave; until it has connected, those of the opener."""
    ordinal: int = 0
    """The number of that rank's set-up call."""
    names_compared: bool = False
    """True once a rank with other names has been reported."""
    processes: set[bytes] = field(default_factory=set)
    """The ids of the processes that have joined."""
    agents: set[str] = field(default_factory=set)
    """Torchrun's agents that have started ranks of the run."""

    def __post_init__(self) -> None:
        # A run without a name has its id as its name.
        name = "" if self.row.name == self.row.run_id else self.row.name
        self.named, self.ordinal = (self.row.project, name), self.row.ordinal

    def note_process(self, stream: Stream) -> None:
        """Note the process of a rank's new stream."""
        self.processes.update(filter(None, (stream.process,)))
        self.agents.update(filter(None, (stream.agent,)))

    @property
    def run_id(self) -> str:
        """The id by which users and backends name the run."""
        return self.row.run_id

    @property
    def running(self) -> bool:
        """True if the run has not ended."""
        # In this order: the recorder's thread first sets the status, then clears ``reopening``.
        return self.reopening or self.live.view.status == RUNNING

    def current(self) -> Iterator[Stream]:
        """Return the ranks' streams of the current attempt."""
        return (s for (attempt, _), s in self.by_rank.items() if attempt == self.attempt)

    def is_restarted_by(self, process: pb.Process) -> bool:
        """Return True if torchrun reports that ``process`` replaces a rank of this attempt.

        Each of torchrun's agents has its own count of restarts, so only ranks of the same host compare.
        An agent ends the former processes first. Agents on one host may count apart, so a connected rank is
        not replaced.
        """
        return any(
            s.restarts is not None and s.restarts < process.restarts and s.connection is None
            for s in self.current()
            if s.host == process.host
        )

    def is_continued_by(self, process: pb.Process) -> bool:
        """Return True if the run has failed, and its torchrun, which lives, has started ``process``.

        An agent of torchrun starts its ranks anew when nodes come or go, and counts that as no restart. The
        first rank to return may be of a new node's agent, while a former agent still lives on this host.
        """
        failed = self.live.view.status not in (RUNNING, RunStatus.FINISHED.value)
        if not (failed and process.agent):
            return False
        return process.agent in self.agents or any(map(_lives_here, self.agents))

    def is_rearranged_by(self, process: pb.Process) -> bool:
        """Return True if ``process`` belongs to another arrangement of the launch, and no rank is connected.

        The world size differs, or torchrun started the process after the other ranks had gone without
        ``finish()``. Torchrun starts the ranks of one arrangement together. If their number is the same as
        before, nothing else shows a new arrangement: its first rank may be one that had never connected.
        """
        differs = 0 < process.world_size != self.world_size > 0
        return (differs or self._are_gone_before(process)) and self.is_disconnected()

    def _are_gone_before(self, process: pb.Process) -> bool:
        if not (process.agent and process.age_ms):
            return False
        began_s, ranks = time.monotonic() - process.age_ms / 1000.0, list(self.current())
        left = any(not stream.finished for stream in ranks)
        return left and all(stream.last_seen_s < began_s for stream in ranks)

    def is_back(self) -> bool:
        """Return True if every admitted rank is connected, finished or lost."""
        return all(s.connection is not None or s.finished or s.lost for s in self.current())

    def have_all_ended(self) -> bool:
        """Return True if ranks of the current attempt have connected, and each has finished or is lost."""
        ends = [stream.finished or stream.lost for stream in self.current()]
        return bool(ends) and all(ends)

    def is_disconnected(self) -> bool:
        """Return True if no rank of the current attempt is connected."""
        return all(stream.connection is None for stream in self.current())

    def expects_more_ends(self) -> bool:
        """Return True if a disconnected rank may reconnect and report its end."""
        return any(s.connection is None and s.may_return() for s in self.current())

    def size(self) -> int:
        """Return the world size of the attempt; 0 if no client has sent it."""
        # After a restart of the daemon the fold knows the size before a client sends it again.
        return max(self.world_size, self.live.view.world_size)

    def missing(self) -> list[int]:
        """Return the ranks of the attempt that were never admitted."""
        admitted = {stream.rank for stream in self.current()}
        return [rank for rank in range(self.size()) if rank not in admitted]

    def is_quiet(self) -> bool:
        """Return True if no stream is connected and the fold is not in memory."""
        connected = any(stream.connection is not None for stream in self.streams.values())
        return not connected and self.live.fold is None

    def open_attempt(self) -> None:
        """Begin the next attempt, and wait for its ranks."""
        self.attempt += 1
        self.world_size = 0  # an elastic restart may have fewer ranks than before
        self.waiting_since_s = time.monotonic()
        self.absence_reported = False


def _lives_here(agent: str) -> bool:
    """Return True if an agent, as its ranks name it, is a living process that this daemon sees."""
    _, _, place = agent.partition(" ")
    space, _, process = place.rpartition(" ")[0].rpartition(" ")
    ticks = place.rpartition(" ")[2]
    if space != pid_space() or not (process.isdecimal() and ticks.isdecimal()):
        return False
    return start_ticks(int(process)) == int(ticks)


@dataclass(frozen=True, slots=True)
class Admission:
    """The decision about a Hello, to be journalled. ``reopened``: the run had ended before."""

    stream: Stream
    new_run: bool = False
    new_stream: bool = False
    reopened: bool = False
    new_attempt: bool = False
    describes: bool = False
    """True if the primary rank replaces the description of the script by its own."""
    warning: str = ""
    """A sentence for the user about names that differ; "" if there is none."""
