"""Who is who: runs, ranks and streams, and whether a client may join.

Used on the event loop only. Decisions are taken in memory at once, so that two clients that come
together cannot both win; what they decide is journalled before the client hears of it.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import msgspec

from tracker_daemon.aggregation.rules import Rules
from tracker_daemon.errors import ClientRefused, ProtocolError, SettingsError
from tracker_daemon.ingest.client_options import BackendOptions, read_backend_options, read_environment
from tracker_daemon.ingest.live_run import LiveRun
from tracker_daemon.journal.rows import RunRow, StreamRow
from tracker_daemon.selection import RankSet
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

_RUN_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


class LiveStream(Protocol):
    """The connection of a stream, as far as the registry needs it."""

    def supersede(self) -> None:
        """The same process has connected again: this connection is dead."""


class RunOptions(msgspec.Struct, frozen=True):
    """A run's own settings, as its first rank gave them and the daemon completed them."""

    backends: str
    outdir: str
    primary_rank: int
    record_ranks: str
    backend_options: BackendOptions = {}
    environment: dict[str, str] = {}


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
    created_s: float = field(default_factory=time.monotonic)
    absent: bool = False

    @property
    def run_id(self) -> str:
        """The run's name to the outside."""
        return self.row.run_id

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.live.view.status == "RUNNING"

    def current(self) -> Iterator[Stream]:
        """The streams of the current attempt."""
        return (s for (attempt, _), s in self.by_rank.items() if attempt == self.attempt)


class Registry:
    """All runs that this daemon knows. ``defaults`` are for runs that leave them out."""

    def __init__(self, defaults: RunOptions, rules: Rules) -> None:
        self._defaults = defaults
        self._rules = rules
        self.runs: dict[str, Run] = {}
        self.streams: dict[bytes, Stream] = {}
        self._by_launch: dict[tuple[str, str, str, int], Run] = {}

    # ---- from the journal ------------------------------------------------------------------------

    def restore(self, row: RunRow, rows: list[StreamRow]) -> Run:
        """Take up a run that the journal holds."""
        options = msgspec.json.decode(row.options, type=RunOptions)
        run = self._add(row, options)
        run.live.row_id = row.id
        run.live.view = replace(run.live.view, status=row.status, reason=row.reason, ended_ns=row.ended_ns)
        for stored in rows:
            stream = Stream(
                stored.stream_id, run, stored.rank, stored.attempt, stored.host, stored.pid,
                stored.next_sequence, finished=stored.finished,
            )  # fmt: skip
            self._place(stream)
        return run

    def _add(self, row: RunRow, options: RunOptions) -> Run:
        rules = replace(
            self._rules,
            primary_rank=options.primary_rank,
            recorded_ranks=RankSet.parse(options.record_ranks),
        )
        run = Run(row, options, LiveRun(row.run_id, rules, row.created_ns), attempt=row.attempt)
        self.runs[row.run_id] = run
        self._by_launch[row.launch_key, row.project, row.name, row.ordinal] = run
        return run

    def _place(self, stream: Stream) -> None:
        run = stream.run
        self.streams[stream.stream_id] = stream
        run.streams[stream.stream_id] = stream
        run.by_rank[stream.attempt, stream.rank] = stream
        run.attempt = max(run.attempt, stream.attempt)

    # ---- admission -------------------------------------------------------------------------------

    def admit(self, hello: pb.Hello) -> tuple[Stream, bool, bool]:
        """Find or make the stream of a Hello; also whether the run and the stream are new.

        Raises:
            ProtocolError: the Hello makes no sense.
            ClientRefused: its rank is taken by a live process, or a limit is reached.
        """
        _check(hello)
        known = self.streams.get(hello.stream_id)
        if known is not None:
            if known.connection is not None:
                known.connection.supersede()
            known.lost = False
            return known, False, False
        if len(self.streams) >= limits.STREAMS_MAX:
            raise ClientRefused(f"the daemon holds {limits.STREAMS_MAX} streams and takes no more")
        run = self._find(hello.launch)
        new_run = run is None
        if run is None:
            run = self._open(hello)
        stream = self._join(run, hello)
        self._place(stream)
        return stream, new_run, True

    def _find(self, launch: pb.Launch) -> Run | None:
        if launch.run_id:
            return self.runs.get(launch.run_id)
        run = self._by_launch.get((launch.key, launch.project, launch.name, launch.ordinal))
        # A run that has ended is not reopened by accident: the next trial of a loop is its own run.
        return run if run is not None and run.running else None

    def _open(self, hello: pb.Hello) -> Run:
        if sum(run.running for run in self.runs.values()) >= limits.RUNS_LIVE_MAX:
            raise ClientRefused(f"the daemon has {limits.RUNS_LIVE_MAX} live runs and takes no more")
        launch, asked, defaults = hello.launch, hello.options, self._defaults
        options = RunOptions(
            asked.backends if asked.HasField("backends") else defaults.backends,
            asked.outdir if asked.HasField("outdir") else defaults.outdir,
            asked.primary_rank if asked.HasField("primary_rank") else defaults.primary_rank,
            asked.record_ranks if asked.HasField("record_ranks") else defaults.record_ranks,
            read_backend_options(asked.backend_options),
            read_environment(hello.process.environment),
        )
        if not Path(options.outdir).is_absolute():
            raise ProtocolError(f"the output directory {options.outdir!r} is not absolute")
        try:
            RankSet.parse(options.record_ranks)
        except ValueError as error:
            raise SettingsError(f"record_ranks: {error}") from error
        run_id = launch.run_id or self._new_run_id()
        row = RunRow(
            0, run_id, launch.key, launch.project, launch.name or run_id, launch.ordinal,
            options.outdir, msgspec.json.encode(options).decode(), created_ns=time.time_ns(),
        )  # fmt: skip
        run = self._add(row, options)
        self._by_launch[launch.key, launch.project, launch.name, launch.ordinal] = run
        return run

    def _new_run_id(self) -> str:
        while True:
            run_id = "".join(secrets.choice(_RUN_ID_ALPHABET) for _ in range(8))
            if run_id not in self.runs:
                return run_id

    def _join(self, run: Run, hello: pb.Hello) -> Stream:
        process = hello.process
        holder = run.by_rank.get((run.attempt, process.rank))
        if holder is not None and holder.connection is not None:
            raise ClientRefused(
                f"rank {process.rank} of run {run.run_id} is held by {holder.described()}; process "
                f"{process.pid} on {process.host} claims it too ({process.rank_source}). Give each process "
                "its own rank: set TRACKER_RANK, or launch both from one launcher"
            )
        if holder is not None:
            # A second incarnation of a rank whose first is gone opens the next attempt; others join it.
            run.attempt += 1
        if not run.running:
            run.live.view = replace(run.live.view, status="RUNNING", reason="", ended_ns=0)
        run.world_size = max(run.world_size, process.world_size)
        return Stream(hello.stream_id, run, process.rank, run.attempt, process.host, process.pid)

    # ---- looking ---------------------------------------------------------------------------------

    def connected(self) -> int:
        """How many streams are connected."""
        return sum(stream.connection is not None for stream in self.streams.values())

    def silent_ranks(self, timeout_s: float) -> dict[Run, list[int]]:
        """Ranks that have been without contact for ``timeout_s`` seconds; each is given once."""
        now, silent = time.monotonic(), defaultdict(list)
        for run in self.runs.values():
            for stream in run.current() if run.running else ():
                gone = stream.connection is None and not stream.finished and not stream.lost
                if gone and now - stream.last_seen_s >= timeout_s:
                    stream.lost = True
                    silent[run].append(stream.rank)
        return silent

    def absent_ranks(self, timeout_s: float) -> dict[Run, list[int]]:
        """Ranks that never came within ``timeout_s`` seconds of their run's beginning; given once."""
        now, absent = time.monotonic(), {}
        for run in self.runs.values():
            if not run.running or run.absent or now - run.created_s < timeout_s:
                continue
            run.absent = True
            came = {rank for attempt, rank in run.by_rank if attempt == run.attempt}
            missing = [rank for rank in range(run.world_size) if rank not in came]
            if missing:
                absent[run] = missing
        return absent


def _check(hello: pb.Hello) -> None:
    process = hello.process
    if len(hello.stream_id) != 16:
        raise ProtocolError(f"a stream id has 16 bytes, not {len(hello.stream_id)}")
    if process.world_size > limits.WORLD_SIZE_MAX or process.rank >= limits.WORLD_SIZE_MAX:
        raise ProtocolError(f"ranks end at {limits.WORLD_SIZE_MAX - 1}")
    if process.world_size and process.rank >= process.world_size:
        raise ProtocolError(
            f"rank {process.rank} does not exist among {process.world_size} ({process.rank_source})"
        )
