"""A run, played as a sequence of events: ranks log, ticks pass, records come out.

    run = Scenario(world_size=2)
    run.log(0, step=0, loss=1.0)
    run.log(1, step=0, loss=3.0)
    run.tick()
    assert run.row(0)["loss/mean"] == 2.0

Every batch goes through the real encoding and :func:`decode_batch`. After each tick the scenario itself
checks what must hold at all times: the books balance, ordinals are contiguous, no cell is emitted
twice, and blocks survive the outbox's encoding.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from tracker_daemon.aggregation.root.fold import RootFold
from tracker_daemon.aggregation.shared.fold import TickOutput
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.values.batch import DecodedBatch
from tracker_daemon.aggregation.values.item import Item
from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.rules.metric_rules import read_aggregates, read_step_axes, read_summaries
from tracker_daemon.rules.rank_selection import RankSet, ReporterRules
from tracker_daemon.wire.batches import decode_batch
from tracker_protocol.v1 import tracker_pb2 as pb

SECOND = 1_000_000_000
Event = tuple[str, tuple[Any, ...]]
Tick = tuple[int, list[Event]]


@dataclass(frozen=True)
class Record:
    ordinal: int
    attempt: int
    step: int
    time_ns: int
    cells: dict[str, float | str]
    occurrences: dict[str, int] = field(default_factory=dict)
    """By column, the number of earlier records of this step and attempt that have it."""

    @property
    def occurrence(self) -> int:
        return max(self.occurrences.values())

    def __getitem__(self, column: str) -> float | str:
        return self.cells[column]


def rules(
    *,
    primary: int = 0,
    record: str = "",
    reporters: str = "",
    learn_wait: float = 5,
    partial_after: float = 30,
    lagging_after: int = 3,
    items: str = "",
    aggregates: str = "",
    may_differ: str = "",
    step_axes: str = "",
    summaries: str = "",
) -> Rules:
    return Rules(
        primary,
        RankSet.parse(record),
        ReporterRules.parse(reporters),
        int(learn_wait * SECOND),
        int(partial_after * SECOND),
        lagging_after,
        RankSet.parse(items),
        read_aggregates(aggregates),
        tuple(may_differ.split(",")),
        read_step_axes(step_axes),
        read_summaries(summaries),
    )


@lru_cache(maxsize=1_000)
def decoded(body: bytes, known_names: int) -> DecodedBatch:
    """The decoded batch: folds only read it, and a run is replayed from each of its ticks."""
    return decode_batch(body, known_names)


def apply(fold: RootFold, event: Event, now_ns: int) -> None:
    kind, arguments = event
    if kind == "batch":
        stream, body = arguments
        fold.batch(stream, decoded(body, len(fold.streams[stream].names)), now_ns)
    elif kind in ("flushed", "hello"):
        getattr(fold, kind)(*arguments, now_ns)
    elif kind == "depart":
        fold.depart(*arguments, now_ns)
    elif kind == "restart_timers":
        fold.restart_timers(now_ns)
    else:
        getattr(fold, kind)(*arguments)


def records_of(blocks: Sequence[RecordBlock]) -> Iterator[Record]:
    for block in blocks:
        texts: dict[int, dict[str, str]] = defaultdict(dict)
        for cell in block.texts:
            texts[cell.row][cell.column] = cell.value
        for i in range(len(block)):
            valid = np.ones(len(block.columns), bool) if block.valid is None else block.valid[i]
            numbers = {
                c: float(v) for c, v, ok in zip(block.columns, block.values[i], valid, strict=True) if ok
            }
            yield Record(
                block.first_ordinal + i,
                block.attempt,
                int(block.steps[i]),
                int(block.times_ns[i]),
                {**numbers, **texts[i]},
            )


class Client:
    """One rank's process: its stream, and the dictionary of names that it has sent."""

    def __init__(self, rank: int, attempt: int) -> None:
        self.attempt = attempt
        self.stream = bytes([rank % 256, attempt]) * 8
        self.names: list[str] = []
        self.newest = (-1, 0, frozenset[str]())
        """The number, step and names of its newest row."""
        self.body = pb.BatchBody()

    def key(self, name: str) -> int:
        if name not in self.names:
            self.names.append(name)
            self.body.names.append(name)
        return self.names.index(name)

    def add_rows(
        self,
        steps: Sequence[int],
        values: Mapping[str, Sequence[float]],
        times: Sequence[int],
        automatic: bool,
        own: bool = False,
    ) -> None:
        block = self.body.blocks.add(automatic_steps=automatic, own=own)
        block.keys.extend(self.key(name) for name in values)
        block.steps = np.array(steps, "<i8").tobytes()
        block.times = np.array(times, "<i8").tobytes()
        block.rows = self._row_numbers(steps, values)
        block.values = np.array(list(values.values()), "<f8").T.tobytes()

    def add_text(self, step: int, texts: Mapping[str, str], time_ns: int) -> None:
        block = self.body.texts.add()
        block.keys.extend(self.key(name) for name in texts)
        block.steps = np.array([step], "<i8").tobytes()
        block.times = np.array([time_ns], "<i8").tobytes()
        block.rows = self._row_numbers([step], texts)
        block.values.extend(texts.values())

    def _row_numbers(self, steps: Sequence[int], names: Iterable[str]) -> bytes:
        """The numbers of rows: a call joins the newest row if that has its step and none of its names."""
        return np.array([self.row_number(step, names) for step in steps], "<i8").tobytes()

    def row_number(self, step: int, names: Iterable[str]) -> int:
        """The number of the row that a call makes or joins."""
        called = frozenset(names)
        number, its_step, its_names = self.newest
        if number < 0 or its_step != step or its_names & called:
            number, its_names = number + 1, frozenset()
        self.newest = (number, step, its_names | called)
        return number

    def take(self, *, flushed: bool = True) -> bytes:
        """The batch; ``flushed``: everything that the rank has logged is in it."""
        self.body.flushed |= flushed
        body, self.body = self.body.SerializeToString(), pb.BatchBody()
        return body


class Scenario:
    """A run of ``world_size`` ranks (0: unknown), of which ``connected`` (all by default) have said hello."""

    flushes: ClassVar[bool] = True
    """Each batch has everything that its rank has logged."""

    def __init__(self, world_size: int = 2, connected: Sequence[int] | None = None, **settings: Any) -> None:
        self.rules = rules(**settings)
        self.fold = RootFold(self.rules)
        self.world_size = world_size
        self.now_ns = 1_000 * SECOND
        self.clients: dict[int, Client] = {}
        self.attempt = 1
        self.events: list[Event] = []
        self.ticks: list[Tick] = []
        self.blocks: list[RecordBlock] = []
        self.records: list[Record] = []
        self.configs: list[str] = []
        self.later_configs: list[str] = []
        self.config_changes: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.items: list[Item] = []
        self.notices: list[str] = []
        self._emitted: Counter[tuple[int, int, str]] = Counter()
        for rank in range(world_size) if connected is None else connected:
            self.join(rank)

    # ---- events ----------------------------------------------------------------------------------

    def happen(self, kind: str, *arguments: Any) -> None:
        self.events.append((kind, arguments))
        # Time stands still until the tick, so that it makes no difference that this happens now.
        apply(self.fold, (kind, arguments), self.now_ns)

    def join(self, rank: int, *, attempt: int | None = None, world_size: int | None = None) -> None:
        """The rank connects, for the first time, again, or as a new process in a new ``attempt``."""
        self.attempt = max(self.attempt, attempt or 1)
        client = self.clients.get(rank)
        if client is None or attempt is not None:
            client = self.clients[rank] = Client(rank, self.attempt)
        self._hello(client, rank, self.world_size if world_size is None else world_size)

    def _hello(self, client: Client, rank: int, world_size: int) -> None:
        self.happen("hello", client.stream, rank, world_size, client.attempt, tuple(client.names))

    def send(self, rank: int, client: Client | None = None) -> None:
        """Send the rank's batch as it is."""
        client = client or self.clients[rank]
        self.happen("batch", client.stream, client.take(flushed=self.flushes))

    def log(self, rank: int, step: int, values: Mapping[str, float] | None = None, **more: float) -> None:
        """The rank logs one row, in a batch of its own."""
        self.log_rows(rank, [step], {name: [value] for name, value in {**(values or {}), **more}.items()})

    def log_own(self, rank: int, step: int, values: Mapping[str, float]) -> None:
        """The rank logs values of which nothing is to be computed, in a batch of their own."""
        client = self.clients[rank]
        columns = {name: [value] for name, value in values.items()}
        client.add_rows([step], columns, [step * SECOND], False, own=True)
        self.send(rank, client)

    def log_rows(
        self,
        rank: int,
        steps: Sequence[int],
        values: Mapping[str, Sequence[float]],
        *,
        times: Sequence[int] | None = None,
        automatic: bool = False,
        client: Client | None = None,
    ) -> None:
        client = client or self.clients[rank]
        client.add_rows(steps, values, times or [self.now_ns] * len(steps), automatic)
        self.send(rank, client)

    def say(self, rank: int, step: int, **texts: str) -> None:
        """The rank logs texts."""
        self.clients[rank].add_text(step, texts, self.now_ns)
        self.send(rank)

    def configure(self, rank: int, document: str) -> None:
        self.clients[rank].body.config.append(document)
        self.send(rank)

    def define(self, rank: int, glob: str, axis: str = "", summary: str = "") -> None:
        """The rank's script defines metrics."""
        self.clients[rank].body.definitions.add(glob=glob, step_metric=axis, summary=summary)
        self.send(rank)

    def give(self, rank: int, kind: str, key: str, step: int = 0, **fields: Any) -> None:
        """The rank logs an item."""
        item = {"document": "{}", **fields}
        self.clients[rank].body.items.add(kind=kind, key=key, step=step, time_ns=self.now_ns, **item)
        self.send(rank)

    def drop(self, rank: int, points_so_far: int) -> None:
        """The rank's client reports how many values it has dropped."""
        self.clients[rank].body.dropped_points = points_so_far
        self.send(rank)

    def flush(self, *ranks: int) -> None:
        """All that these ranks have logged is here."""
        for rank in ranks:
            self.happen("flushed", self.clients[rank].stream)

    def finish(self, *ranks: int, code: int = 0) -> None:
        for rank in ranks:
            self.clients[rank].body.finish = code
            self.send(rank)

    def lose(self, rank: int, how: str = "lost") -> None:
        self.happen("depart", rank, how)

    def gap(self, points: int) -> None:
        self.happen("gap", points)

    def reject(self) -> None:
        self.happen("rejected")

    def restart(self) -> None:
        """The daemon starts again on the journal's events so far."""
        self.happen("restart_timers")

    def overflow(self, rows: int) -> None:
        self.happen("close_oldest", rows)

    def end(self, code: int = 0) -> None:
        self.happen("end", code)

    # ---- time ------------------------------------------------------------------------------------

    def tick(self) -> list[Record]:
        """Commit: decide, and return the new records."""
        settled = self.fold.settle(self.now_ns)
        self.ticks.append((self.now_ns, self.events))
        self.events = []
        new = [self._numbered(record) for record in records_of(settled.blocks)]
        self._check(settled, new)
        self.blocks += settled.blocks
        self.records += new
        self.later_configs += [settled.configs[at] for at in settled.later_configs]
        self.configs += settled.configs
        self.config_changes += settled.config_changes
        self.warnings += settled.warnings
        self.items += settled.items
        self.notices += settled.notices
        return new

    def wait(self, seconds: float) -> list[Record]:
        """Commit, let time pass, and commit again."""
        before = self.tick() if self.events else []
        self.now_ns += int(seconds * SECOND)
        return before + self.tick()

    def _check(self, settled: TickOutput, new: list[Record]) -> None:
        books = self.fold.books
        open_points = self.fold.attempt.open_points()
        assert books.received == books.folded + open_points + books.late + books.rejected
        assert books.late == sum(books.late_by_rank.values())
        for ordinal, record in enumerate(new, len(self.records) + 1):
            assert record.ordinal == ordinal
            assert record.cells
        assert books.records == len(self.records) + len(new)
        for block in settled.blocks:
            assert len(set(block.columns)) == len(block.columns)
            assert_identical(block, RecordBlock.from_bytes(block.to_bytes()))

    def _numbered(self, record: Record) -> Record:
        cells = {column: (record.attempt, record.step, column) for column in record.cells}
        occurrences = {column: self._emitted[cell] for column, cell in cells.items()}
        self._emitted.update(cells.values())
        return replace(record, occurrences=occurrences)

    # ---- what came out ---------------------------------------------------------------------------

    def rows(self, step: int, occurrence: int = 0, attempt: int | None = None) -> list[Record]:
        return [
            r
            for r in self.records
            if r.step == step and occurrence in r.occurrences.values() and attempt in (None, r.attempt)
        ]

    def rows_at(self, step: int) -> list[Record]:
        """All records of a step."""
        return [record for record in self.records if record.step == step]

    def row(self, step: int, occurrence: int = 0, attempt: int | None = None) -> dict[str, float | str]:
        """All cells of a step, from however many records."""
        cells: dict[str, float | str] = {}
        for record in self.rows(step, occurrence, attempt):
            cells.update((c, v) for c, v in record.cells.items() if record.occurrences[c] == occurrence)
        return cells

    def steps(self) -> list[int]:
        """The steps of the records, in order of emission."""
        return [record.step for record in self.records]


def assert_identical(a: RecordBlock, b: RecordBlock) -> None:
    """Bit for bit."""
    assert (a.first_ordinal, a.attempt, a.columns, a.texts) == (
        b.first_ordinal,
        b.attempt,
        b.columns,
        b.texts,
    )
    for name in ("steps", "times_ns", "values"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name
    for name in ("valid", "kinds"):
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert one.tobytes() == other.tobytes()
    for one, other in zip(a.axes, b.axes, strict=True):
        assert (one.name, one.columns, one.texts) == (other.name, other.columns, other.texts)
        assert one.values.tobytes() == other.values.tobytes()
    assert a.summaries == b.summaries


def learned(run: Scenario, ranks: list[int], step: int = 0) -> Scenario:
    """``loss`` has been reported by ``ranks``, and nobody else, at ``step``."""
    for rank in ranks:
        run.log(rank, step, loss=rank)
    run.tick()
    if len(ranks) < run.world_size:
        run.wait(5)
        run.flush(*range(run.world_size))
        run.tick()
    assert run.steps() == [step]
    return run
