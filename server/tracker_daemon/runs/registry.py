"""The registry: the runs, ranks and streams in memory, and the decision whether a client may join.

Used on the event loop only. A decision takes effect in memory at once, so that two clients at the same
moment cannot both get a rank. The decision is journalled before the client receives its answer.

Runs that ended long ago are *forgotten*: only their ids stay in memory. A forgotten run is restored from the
journal when a straggler sends a batch, or when a client resumes the run.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import replace

import msgspec

from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.shared.stream import NODE
from tracker_daemon.errors import ClientRefused, ProtocolError
from tracker_daemon.files.layout import Layout
from tracker_daemon.journal.rows import RunRow, StreamRow
from tracker_daemon.processes.host_watch import Place
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.runs.forgotten_runs import ForgottenRuns
from tracker_daemon.runs.identity import Fit, Match, differing_names, kept_of_opener, match
from tracker_daemon.runs.run import Admission, LiveStream, Run, Stream
from tracker_daemon.runs.run_options import RunOptions, complete_options, default_rules
from tracker_daemon.settings.definitions import Settings
from tracker_daemon.wire.hello import check_hello
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

_RUN_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


class Registry:
    """All runs in memory.

    Args:
        defaults: the options for those that a run leaves out.
        rules: the daemon's own rules of aggregation.
        reserve_s: for how many seconds a disconnected process keeps its rank.
        start_timeout_s: for how many seconds a run is expected to have ranks that have never connected.
    """

    def __init__(
        self,
        defaults: RunOptions,
        rules: Rules,
        reserve_s: float = limits.CHALLENGE_TIMEOUT_S,
        start_timeout_s: float = limits.START_TIMEOUT_S,
    ) -> None:
        self._defaults = defaults
        self._rules = rules
        self._reserve_s = reserve_s
        self._start_timeout_s = start_timeout_s
        self.runs: dict[str, Run] = {}
        self.streams: dict[bytes, Stream] = {}
        self.connections = 0
        self._relayed: set[bytes] = set()
        """The streams of ranks that are connected through their nodes' daemons."""
        self.forgotten = ForgottenRuns()
        self._by_launch: dict[tuple[str, str], list[Run]] = {}
        """The runs of each launch key and run key, in the order in which they began."""

    @classmethod
    def from_settings(cls, settings: Settings, layout: Layout) -> Registry:
        """Return an empty registry with the daemon's defaults, rules and patience."""
        return cls(
            RunOptions.from_settings(settings, layout),
            default_rules(settings),
            settings.challenge_timeout_s,
            settings.start_timeout_s,
        )

    # ---- from the journal ------------------------------------------------------------------------

    def restore(self, row: RunRow, rows: list[StreamRow]) -> Run:
        """Add a run of the journal, with its streams."""
        options = msgspec.json.decode(row.options, type=RunOptions)
        run = self._add(row, options)
        run.live.row_id = row.id
        run.live.view = replace(run.live.view, status=row.status, reason=row.reason, ended_ns=row.ended_ns)
        for stored in rows:
            stream = Stream(
                stored.stream_id, run, stored.rank, stored.attempt, stored.host, stored.pid,
                stored.next_sequence, finished=stored.finished, process=stored.process, agent=stored.agent,
                reserved_until_s=time.monotonic() + limits.RECONNECT_BACKOFF_MAX_S + self._reserve_s,
            )  # fmt: skip
            self._place(stream)
        self.forgotten.discard(run)
        return run

    def _add(self, row: RunRow, options: RunOptions) -> Run:
        forwards = options.forwarding is not None
        live = LiveRun(row.run_id, options.rules(self._rules), row.created_ns, forwards=forwards)
        run = Run(row, options, live, attempt=row.attempt)
        self.runs[row.run_id] = run
        self._by_launch.setdefault((row.launch_key, row.run_key), []).append(run)
        return run

    def _place(self, stream: Stream) -> None:
        run = stream.run
        self.streams[stream.stream_id] = stream
        run.streams[stream.stream_id] = stream
        if stream.is_node:
            return
        run.by_rank[stream.attempt, stream.rank] = stream
        run.last_hello_s = time.monotonic()
        run.attempt = max(run.attempt, stream.attempt)
        run.note_process(stream)

    def wake(self, streams: Iterable[bytes]) -> None:
        """Let the connections of ``streams`` acknowledge what is durable by now."""
        for stream_id in streams:
            stream = self.streams.get(stream_id)
            if stream is not None and stream.connection is not None:
                stream.connection.wake()

    # ---- admission -------------------------------------------------------------------------------

    def admit(self, hello: pb.Hello, excluded: Container[str] = ()) -> Admission:
        """Find or make the stream of a Hello; ``excluded`` are the ids of runs that it does not join.

        Raises:
            ProtocolError: the Hello contradicts the protocol or itself.
            SettingsError: one of its options cannot be used.
            ClientRefused: a limit is reached.
        """
        check_hello(hello)
        known = self.streams.get(hello.stream_id)
        if known is not None:
            if known.is_node != hello.HasField("node"):
                raise ProtocolError(
                    "a stream belongs to a rank or to a node's daemon, and cannot change its kind"
                )
            return self._readmit(known, hello)
        # A rank of a node has no connection of its own here.
        if self.connections - len(self._relayed) >= limits.STREAMS_MAX:
            raise ClientRefused(f"the daemon has {limits.STREAMS_MAX} streams connected and takes no more")
        if hello.HasField("node"):
            return self._admit_node(hello)
        found = self.find(hello, excluded)
        run = self._open(hello) if found is None else found.run
        is_late = found is not None and found.is_late
        reopened, attempt = not run.running and not is_late, run.attempt
        stream = _stream_of(hello, run, run.attempt) if is_late else self._join(run, hello)
        self._place(stream)
        warning = self._name_warning(run, hello, opened=found is None)
        describes = self._describe(run, hello)
        return Admission(stream, found is None, True, reopened, run.attempt > attempt, describes, warning)

    def _readmit(self, known: Stream, hello: pb.Hello) -> Admission:
        """Admit a known process again; its former connection, if there is one, is dead."""
        if known.connection is not None:
            known.connection.supersede()
        known.note_return(answers_challenges=hello.answers_challenges)
        known.restarts = hello.process.restarts
        known.place = Place.of(hello.process)
        if known.attempt == known.run.attempt:
            known.run.world_size = max(known.run.world_size, hello.process.world_size)
        return Admission(known)

    def _admit_node(self, hello: pb.Hello) -> Admission:
        """Make the stream of a node's daemon, in the run of its ranks."""
        node = hello.node
        run = self.runs.get(node.run_id)
        if run is None:
            raise ClientRefused(
                f"this daemon knows no run {node.run_id}, which the daemon on {node.host} forwards: it has "
                "another state directory than when the run began"
            )
        stream = Stream(hello.stream_id, run, NODE, run.attempt, node.host, node.pid)
        self._place(stream)
        return Admission(stream, new_stream=True)

    def admit_decided(self, hello: pb.Hello, run_id: str, attempt: int, options: RunOptions) -> Admission:
        """Find or make the stream of a rank about which the root has decided."""
        known = self.streams.get(hello.stream_id)
        if known is not None:  # the client has connected again while the root was asked
            return self._readmit(known, hello)
        run = self.runs.get(run_id)
        new_run = run is None
        if run is None:
            run = self._begin(hello.launch, run_id, options)
        reopened, before = not run.running, run.attempt
        run.attempt = max(before, attempt)
        run.reopening = run.reopening or reopened
        process = hello.process
        run.world_size = process.world_size if attempt > before else max(run.world_size, process.world_size)
        stream = _stream_of(hello, run, attempt)
        self._place(stream)
        # The root knows which classes of the script receive records once the primary rank is admitted.
        described = process.rank == options.primary_rank and run.options != options
        if described:
            run.options = options
        return Admission(stream, new_run, True, reopened, attempt > before, described)

    def _describe(self, run: Run, hello: pb.Hello) -> bool:
        """Replace the description of the script by the primary rank's; return True if that changed it."""
        if run.options.is_described or hello.process.rank != run.options.primary_rank:
            return False
        run.options = run.options.described(hello.process)
        run.named = hello.launch.project, hello.launch.name
        run.ordinal = hello.launch.ordinal
        return True

    def _name_warning(self, run: Run, hello: pb.Hello, *, opened: bool) -> str:
        """Return a warning, once a run, if the names that ranks give differ; "" if there is none."""
        if opened or hello.launch.run_id:
            return ""
        if hello.process.rank != run.options.primary_rank:
            warning = "" if run.names_compared else differing_names(hello, run)
            run.names_compared = run.names_compared or bool(warning)
            return warning
        return "" if run.options.is_described else kept_of_opener(hello, run)

    def rivals(self, hello: pb.Hello, excluded: Container[str] = ()) -> list[Stream]:
        """Return the streams whose processes must be gone before the process of ``hello`` can be admitted."""
        known = hello.stream_id in self.streams or hello.HasField("node")
        found = None if known else self.find(hello, excluded)
        if found is None or not found.run.running or found.run.is_restarted_by(hello.process):
            return []
        run = found.run
        holder = run.by_rank.get((run.attempt, hello.process.rank))
        if holder is not None:
            return [holder] if holder.may_return() else []
        if run.is_rearranged_by(hello.process):
            return [stream for stream in run.current() if stream.may_return()]
        return []

    def run_finished_by(self, hello: pb.Hello) -> Run | None:
        """Return the running run in which the rank of ``hello`` has finished; None if there is none."""
        holder = None if hello.stream_id in self.streams else self.predecessor(hello)
        if holder is None or holder.run.is_restarted_by(hello.process):
            return None
        return holder.run if holder.finished else None

    def predecessor(self, hello: pb.Hello) -> Stream | None:
        """Return the stream of the same rank in the current attempt of the run, if the run is running."""
        found = self.find(hello)
        if found is None or not found.run.running:
            return None
        return found.run.by_rank.get((found.run.attempt, hello.process.rank))

    def connect(self, stream: Stream, connection: LiveStream, *, relayed: bool = False) -> None:
        """Set the connection of an admitted stream; it replaces the former one.

        ``relayed``: the rank is connected to its node's daemon, not to this one.
        """
        stream.run.visited = True
        self.connections += stream.connection is None
        stream.connection = connection
        (self._relayed.add if relayed else self._relayed.discard)(stream.stream_id)

    def disconnect(self, stream: Stream, connection: LiveStream) -> None:
        """Remove an ended connection, unless another one has replaced it."""
        if stream.connection is connection:
            stream.connection = None
            stream.last_seen_s = time.monotonic()
            stream.reserve(self._reserve_s)
            self.connections -= 1
            self._relayed.discard(stream.stream_id)

    def find(self, hello: pb.Hello, excluded: Container[str] = ()) -> Match | None:
        """Return the run that the process of ``hello`` joins, and why; None if it is to open one."""
        launch = hello.launch
        if launch.run_id:
            run = self.runs.get(launch.run_id)
            return None if run is None else Match(run, Fit.RUN_ID)
        runs = self._by_launch.get((launch.key, launch.run_key), ())
        return match(hello, [run for run in runs if run.run_id not in excluded], self._start_timeout_s)

    def primary_of(self, hello: pb.Hello) -> int:
        """Return the primary rank, as far as the process of ``hello`` and this daemon's settings say."""
        asked = hello.options
        return asked.primary_rank if asked.HasField("primary_rank") else self._defaults.primary_rank

    def decides(self, hello: pb.Hello) -> bool:
        """Return True if a run that the process of ``hello`` opens has no other rank to wait for."""
        primary, process = self.primary_of(hello), hello.process
        return primary == process.rank or primary >= process.world_size > 0

    def _open(self, hello: pb.Hello) -> Run:
        if sum(run.running for run in self.runs.values()) >= limits.RUNS_LIVE_MAX:
            raise ClientRefused(f"the daemon has {limits.RUNS_LIVE_MAX} live runs and takes no more")
        options = complete_options(hello, self._defaults)
        return self._begin(hello.launch, hello.launch.run_id or self._new_run_id(), options)

    def _begin(self, launch: pb.Launch, run_id: str, options: RunOptions) -> Run:
        row = RunRow(
            0, run_id, launch.key, launch.project, launch.name or run_id, launch.ordinal,
            options.outdir, msgspec.json.encode(options).decode(), created_ns=time.time_ns(),
            run_key=launch.run_key,
        )  # fmt: skip
        return self._add(row, options)

    def _new_run_id(self) -> str:
        while True:
            run_id = "".join(secrets.choice(_RUN_ID_ALPHABET) for _ in range(8))
            if run_id not in self.runs and run_id not in self.forgotten:
                return run_id

    def _join(self, run: Run, hello: pb.Hello) -> Stream:
        process = hello.process
        taken = (run.attempt, process.rank) in run.by_rank
        if taken or not run.running or run.is_restarted_by(process) or run.is_rearranged_by(process):
            # The next process of a rank whose former process is gone opens the next attempt; others join.
            run.open_attempt()
        if not run.running:
            run.reopening = True
        run.world_size = max(run.world_size, process.world_size)
        return _stream_of(hello, run, run.attempt)

    def disconnected_runs(self) -> list[Run]:
        """Return the running runs that had connected ranks in this process, and have none now."""
        return [run for run in self.runs.values() if run.running and run.visited and run.is_disconnected()]

    # ---- runs that ended long ago ----------------------------------------------------------------

    def forget_ended(self, keep: int, is_delivered: Callable[[Run], bool]) -> list[Run]:
        """Forget the runs that ended first, down to ``keep`` ended ones; return the forgotten runs."""
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
        self.forgotten.add(run)
        del self.runs[run.run_id]
        for stream_id in run.streams:
            del self.streams[stream_id]
        identity = run.row.launch_key, run.row.run_key
        others = [other for other in self._by_launch[identity] if other is not run]
        if others:
            self._by_launch[identity] = others
        else:
            del self._by_launch[identity]


def _stream_of(hello: pb.Hello, run: Run, attempt: int) -> Stream:
    process = hello.process
    return Stream(
        hello.stream_id, run, process.rank, attempt, process.host, process.pid,
        answers_challenges=hello.answers_challenges, restarts=process.restarts, process=process.id,
        agent=process.agent,
        place=Place.of(process),
    )  # fmt: skip
