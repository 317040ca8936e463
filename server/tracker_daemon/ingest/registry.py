"""Who is who: runs, ranks and streams, and whether a client may join.

Used on the event loop only. Decisions are taken in memory at once, so that two clients that come
together cannot both win; what they decide is journalled before the client hears of it.

Runs that ended long ago are *forgotten*: only the ids stay that tell when one must be recalled from
the journal, because a straggler sends or someone resumes it.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import msgspec

from tracker_daemon.aggregation.batch import check_names
from tracker_daemon.aggregation.rules import Rules
from tracker_daemon.errors import ClientRefused, ProtocolError, SettingsError
from tracker_daemon.ingest.client_options import BackendOptions, read_backend_options, read_environment
from tracker_daemon.ingest.live_run import LiveRun
from tracker_daemon.journal.event import SEQUENCE_MAX
from tracker_daemon.journal.rows import RUNNING, RunRow, StreamRow
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
    item_ranks: str = ""


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
    backends: list[str] = field(default_factory=list)
    """That have a cursor, those of the script among them."""
    script_backends: set[str] = field(default_factory=set)
    waiting_since_s: float = field(default_factory=time.monotonic)
    """When the wait for the attempt's ranks began."""
    absent_told: bool = False
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

    def is_back(self) -> bool:
        """Whether every rank that has come is connected, or will not come any more."""
        return all(s.connection is not None or s.finished or s.lost for s in self.current())

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


class Registry:
    """All runs that this daemon knows. ``defaults`` are for runs that leave them out."""

    def __init__(self, defaults: RunOptions, rules: Rules) -> None:
        self._defaults = defaults
        self._rules = rules
        self.runs: dict[str, Run] = {}
        self.streams: dict[bytes, Stream] = {}
        self.connections = 0
        self._forgotten_runs: dict[str, int] = {}
        self._forgotten_streams: dict[bytes, int] = {}
        self._by_launch: dict[tuple[str, str, str, int], Run] = {}

    # ---- from the journal ------------------------------------------------------------------------

    def restore(self, row: RunRow, rows: list[StreamRow]) -> Run:
        """Take up a run that the journal holds."""
        options = msgspec.json.decode(row.options, type=RunOptions)
        self._forgotten_runs.pop(row.run_id, None)
        run = self._add(row, options)
        run.live.row_id = row.id
        run.live.view = replace(run.live.view, status=row.status, reason=row.reason, ended_ns=row.ended_ns)
        for stored in rows:
            stream = Stream(
                stored.stream_id, run, stored.rank, stored.attempt, stored.host, stored.pid,
                stored.next_sequence, finished=stored.finished,
            )  # fmt: skip
            self._forgotten_streams.pop(stored.stream_id, None)
            self._place(stream)
        return run

    def _add(self, row: RunRow, options: RunOptions) -> Run:
        rules = replace(
            self._rules,
            primary_rank=options.primary_rank,
            recorded_ranks=RankSet.parse(options.record_ranks),
            item_ranks=RankSet.parse(options.item_ranks),
        )
        run = Run(row, options, LiveRun(row.run_id, rules, row.created_ns), attempt=row.attempt)
        self.runs[row.run_id] = run
        known = self._by_launch.get(_identity(row))
        # An old run that is recalled must not hide the one that goes on under the same identity.
        if known is None or not known.running or row.status == RUNNING:
            self._by_launch[_identity(row)] = run
        return run

    def _place(self, stream: Stream) -> None:
        run = stream.run
        self.streams[stream.stream_id] = stream
        run.streams[stream.stream_id] = stream
        run.by_rank[stream.attempt, stream.rank] = stream
        run.attempt = max(run.attempt, stream.attempt)

    # ---- admission -------------------------------------------------------------------------------

    def admit(self, hello: pb.Hello) -> Admission:
        """Find or make the stream of a Hello.

        Raises:
            ProtocolError: the Hello makes no sense.
            SettingsError: one of its options cannot be used.
            ClientRefused: its rank is taken by a live process, or a limit is reached.
        """
        _check(hello)
        known = self.streams.get(hello.stream_id)
        if known is not None:
            if known.connection is not None:
                known.connection.supersede()
            known.lost = False
            if known.attempt == known.run.attempt:
                known.run.world_size = max(known.run.world_size, hello.process.world_size)
            return Admission(known)
        if self.connections >= limits.STREAMS_MAX:
            raise ClientRefused(f"the daemon has {limits.STREAMS_MAX} streams connected and takes no more")
        run = self._find(hello.launch)
        new_run = run is None
        if run is None:
            run = self._open(hello)
        reopened = not run.running
        stream = self._join(run, hello)
        self._place(stream)
        return Admission(stream, new_run, new_stream=True, reopened=reopened)

    def connect(self, stream: Stream, connection: LiveStream) -> None:
        """An admitted stream's connection takes the place of the one that it may have had."""
        self.connections += stream.connection is None
        stream.connection = connection

    def disconnect(self, stream: Stream, connection: LiveStream) -> None:
        """A connection has ended; it matters only if it was still the stream's."""
        if stream.connection is connection:
            stream.connection = None
            stream.last_seen_s = time.monotonic()
            self.connections -= 1

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
            asked.item_ranks if asked.HasField("item_ranks") else defaults.item_ranks,
        )
        if not Path(options.outdir).is_absolute():
            raise ProtocolError(f"the output directory {options.outdir!r} is not absolute")
        _check_ranks("record_ranks", options.record_ranks)
        _check_ranks("item_ranks", options.item_ranks)
        run_id = launch.run_id or self._new_run_id()
        row = RunRow(
            0, run_id, launch.key, launch.project, launch.name or run_id, launch.ordinal,
            options.outdir, msgspec.json.encode(options).decode(), created_ns=time.time_ns(),
        )  # fmt: skip
        return self._add(row, options)

    def _new_run_id(self) -> str:
        while True:
            run_id = "".join(secrets.choice(_RUN_ID_ALPHABET) for _ in range(8))
            if run_id not in self.runs and run_id not in self._forgotten_runs:
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
        if holder is not None or not run.running:
            # A second incarnation of a rank whose first is gone opens the next attempt; others join it.
            run.open_attempt()
        if not run.running:
            run.reopening = True
        run.world_size = max(run.world_size, process.world_size)
        return Stream(hello.stream_id, run, process.rank, run.attempt, process.host, process.pid)

    # ---- looking ---------------------------------------------------------------------------------

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
            if not run.running or run.absent_told or now - run.waiting_since_s < timeout_s:
                continue
            # After a restart the fold knows it before a client says it again.
            world_size = max(run.world_size, run.live.view.world_size)
            run.absent_told = world_size > 0
            came = {stream.rank for stream in run.current()}
            missing = [rank for rank in range(world_size) if rank not in came]
            if missing:
                absent[run] = missing
        return absent

    # ---- runs that ended long ago ----------------------------------------------------------------

    def forget_ended(self, keep: int, is_delivered: Callable[[Run], bool]) -> list[Run]:
        """Forget the runs that ended first, down to ``keep`` of them; the forgotten ones."""
        ended = [run for run in self.runs.values() if not run.running]
        if len(ended) <= keep:
            return []
        ended.sort(key=lambda run: run.live.view.ended_ns)
        idle = (run for run in ended[: len(ended) - keep] if run.is_quiet() and is_delivered(run))
        forgotten = list(idle)
        for run in forgotten:
            self._forget(run)
        return forgotten

    def _forget(self, run: Run) -> None:
        row_id = run.live.row_id
        del self.runs[run.run_id]
        self._forgotten_runs[run.run_id] = row_id
        for stream_id in run.streams:
            del self.streams[stream_id]
            self._forgotten_streams[stream_id] = row_id
        if self._by_launch.get(_identity(run.row)) is run:
            del self._by_launch[_identity(run.row)]

    def forgotten(self, hello: pb.Hello) -> int | None:
        """The row id of the forgotten run that a Hello means; None where there is none to recall."""
        row_id = self._forgotten_streams.get(hello.stream_id)
        return self._forgotten_runs.get(hello.launch.run_id) if row_id is None else row_id


def _identity(row: RunRow) -> tuple[str, str, str, int]:
    """What a Hello without a run id is looked up by. A run that was given no name is called by its id."""
    name = "" if row.name == row.run_id else row.name
    return row.launch_key, row.project, name, row.ordinal


def _check_ranks(name: str, ranks: str) -> None:
    try:
        RankSet.parse(ranks)
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from error


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
    if hello.last_acknowledged >= SEQUENCE_MAX - 2:
        raise ProtocolError(f"sequence {hello.last_acknowledged} cannot have been acknowledged")
    if len(hello.names) > limits.METRICS_PER_RUN_MAX:
        raise ProtocolError(f"the stream names more than {limits.METRICS_PER_RUN_MAX} metrics")
    check_names(tuple(hello.names))
    _check_texts(hello)


def _check_texts(hello: pb.Hello) -> None:
    launch, process, options = hello.launch, hello.process, hello.options
    texts = {
        "launch key": launch.key,
        "project": launch.project,
        "name": launch.name,
        "run id": launch.run_id,
        "host": process.host,
        "rank source": process.rank_source,
        "list of backends": options.backends,
        "output directory": options.outdir,
        "record_ranks": options.record_ranks,
        "item_ranks": options.item_ranks,
    }
    for what, text in texts.items():
        if len(text.encode()) > limits.HELLO_TEXT_MAX_BYTES or "\0" in text:
            raise ProtocolError(
                f"the {what} has more than {limits.HELLO_TEXT_MAX_BYTES} bytes, or a null character"
            )
