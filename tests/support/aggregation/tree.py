"""A run whose ranks have nodes' daemons between them and the root, played as :mod:`scenario` plays one.

The nodes' daemons are made of plain dictionaries here, and of nothing of the product's: they gather what
their ranks log, cell by cell, and forward what they are told to.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from tests.support.aggregation.scenario import Record, Scenario
from tracker_daemon.aggregation.numbers.summary import summarize
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.shared.stream import NODE
from tracker_daemon.aggregation.values.contribution import (
    NO_STEP,
    Contribution,
    Progress,
    StepKeys,
)
from tracker_daemon.wire.contributions import encode_contribution, encode_progress, encode_step_keys
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

EPS = np.finfo(np.float64).eps
Key = tuple[int, int]
Cell = dict[int, tuple[float, int]]
"""What each rank has reported: value and time."""


class Node:
    """A node's daemon, with the ranks whose values it is to forward one by one."""

    def __init__(self, number: int, rules: Rules) -> None:
        self.stream = bytes([255, number]) * 8
        self.rules = rules
        self.names: list[str] = []
        self.body = pb.BatchBody()
        self.cells: dict[int, dict[Key, dict[str, Cell]]] = defaultdict(dict)  # by attempt, in order of rows
        self.highs: dict[tuple[int, int, str], list[int]] = defaultdict(list)
        self.reporters: dict[str, set[int]] = defaultdict(set)
        self.soles: dict[str, int] = {}
        self.forwarded: set[str] = set()
        self.behind: set[int] = set()  # ranks that others come before, in a batch
        self.last_steps: dict[int, dict[int, int]] = defaultdict(dict)  # by attempt and rank
        self.high_steps: dict[int, dict[int, int]] = defaultdict(dict)  # by attempt and rank
        self.bars: dict[tuple[int, Key, str], int] = {}
        self.numbers: dict[tuple[int, Key, str, int], int] = {}
        self.logged: set[int] = set()
        """The ranks that have logged since the node forwarded last."""

    def key(self, name: str) -> int:
        if name not in self.names:
            self.names.append(name)
            self.body.names.append(name)
        return self.names.index(name)

    def note_row(self, attempt: int, rank: int, step: int) -> None:
        """Note how far a rank is."""
        self.last_steps[attempt][rank] = step
        self.high_steps[attempt][rank] = max(step, self.high_steps[attempt].get(rank, NO_STEP))
        self.logged.add(rank)

    def log(
        self, attempt: int, rank: int, step: int, values: Mapping[str, float], time_ns: int, number: int
    ) -> None:
        """Gather a row of a rank, which has this number."""
        counted = [(self._occurrence(attempt, rank, name, step), name) for name in values]
        for occurrence, name in sorted(counted):
            self.reporters[name].add(rank)
            row = self.cells[attempt].setdefault((step, occurrence), {})
            row.setdefault(name, {})[rank] = (values[name], time_ns)
            cell = attempt, (step, occurrence), name
            self.bars.setdefault(cell, self.high_steps[attempt][rank])
            self.numbers[(*cell, rank)] = number

    def _occurrence(self, attempt: int, rank: int, name: str, step: int) -> int:
        highs = self.highs[attempt, rank, name]
        occurrence = sum(high >= step for high in highs)
        assert occurrence < limits.OCCURRENCES_PER_STEP_MAX
        highs[occurrence : occurrence + 1] = [step]
        return occurrence

    def gathered(self) -> list[tuple[int, Key]]:
        """The rows that are not forwarded yet."""
        return [(attempt, key) for attempt, rows in self.cells.items() for key in rows]

    def add_contributions(self, rows: Iterable[tuple[int, Key]]) -> None:
        """Put some of the gathered rows into the batch."""
        groups: dict[tuple[int, tuple[int, ...], tuple[str, ...]], list[Key]] = defaultdict(list)
        taken = {(attempt, key): self.cells[attempt].pop(key) for attempt, key in rows}
        for (attempt, key), row in taken.items():
            names_of: dict[tuple[int, ...], list[str]] = defaultdict(list)
            for name, cell in row.items():
                for ranks in self._divided(name, cell):
                    names_of[ranks].append(name)
            for ranks, names in sorted(names_of.items(), key=lambda item: (self.behind >= {*item[0]}, item)):
                groups[attempt, ranks, tuple(names)].append(key)
        for (attempt, ranks, names), keys in groups.items():
            cells = [[taken[attempt, key][name] for name in names] for key in keys]
            self.body.contributions.append(
                encode_contribution(self._contribution(attempt, ranks, names, keys, cells))
            )

    def _divided(self, name: str, cell: Cell) -> list[tuple[int, ...]]:
        if name not in self.forwarded:
            self.forwarded.add(name)
            if len(self.reporters[name]) == 1:
                [self.soles[name]] = self.reporters[name]
        alone = {rank for rank in cell if rank == self.soles.get(name)}
        others = tuple(sorted(cell.keys() - alone))
        return [*((rank,) for rank in sorted(alone)), *([others] if others else [])]

    def _contribution(
        self,
        attempt: int,
        ranks: tuple[int, ...],
        names: tuple[str, ...],
        keys: Sequence[Key],
        cells: Sequence[Sequence[Cell]],
    ) -> Contribution:
        values = np.array([[[cell[rank][0] for cell in row] for rank in ranks] for row in cells])
        alone, who = len(ranks) == 1, np.array(ranks)
        bars = [max(self.bars[attempt, key, name] for name in names) for key in keys]
        numbers = [{self.numbers[attempt, key, name, ranks[0]] for name in names} for key in keys]
        of_one_row = alone and all(len(number) == 1 for number in numbers)
        return Contribution(
            attempt,
            who,
            tuple(self.key(name) for name in names),
            np.array([step for step, _ in keys]),
            np.array([occurrence for _, occurrence in keys]),
            np.array([row[0][ranks[0]][1] for row in cells]),
            np.array(bars),
            values[:, 0] if alone else None,
            None if alone else summarize(values, np.ones(values.shape, np.bool_), who),
            np.array([number.pop() for number in numbers]) if of_one_row else None,
        )

    def add_progress(self, attempt: int, flushed: Iterable[int] = ()) -> None:
        """Put how far the ranks have come into the batch."""
        last_steps, highs, flushed = self.last_steps[attempt], self.high_steps[attempt], set(flushed)
        ranks = sorted({*last_steps, *flushed})
        if not ranks:
            return
        steps = np.array([last_steps.get(rank, NO_STEP) for rank in ranks], np.int64)
        marks = np.array([rank in flushed for rank in ranks], np.bool_)
        high_steps = np.array([highs.get(rank, NO_STEP) for rank in ranks], np.int64)
        progress = Progress(attempt, np.array(ranks, np.int64), steps, high_steps, marks)
        self.body.progress.append(encode_progress(progress))

    def add_step_keys(self, rank: int, names: Sequence[str], steps: Sequence[int]) -> None:
        """Put what a rank logged at steps that it counts itself, in the first attempt, into the batch."""
        keys = tuple(self.key(name) for name in names)
        self.body.automatic_keys.append(encode_step_keys(StepKeys(1, rank, keys, np.array(steps))))

    def add_part(self, stream: bytes, body: pb.BatchBody, names: Sequence[str] = ()) -> None:
        """Put what a rank's own batch says into the batch, its keys in the node's dictionary."""
        for block in (*body.blocks, *body.texts):
            keys = [self.key(names[key]) for key in block.keys]
            del block.keys[:]
            block.keys.extend(keys)
        del body.names[:]
        self.body.parts.add(stream_id=stream, body=body)

    def take(self) -> bytes:
        body, self.body = self.body.SerializeToString(), pb.BatchBody()
        return body


class Tree(Scenario):
    """A run of as many ranks as there are in ``nodes``, which says which ranks each node has.

    What the ranks log stays with their nodes until these :meth:`forward` it. After each event the books
    balance.
    """

    def __init__(self, nodes: Sequence[Sequence[int]], **settings: Any) -> None:
        super().__init__(sum(map(len, nodes)), **settings)
        self.nodes = [Node(number, self.rules) for number, _ in enumerate(nodes)]
        self.node_of = {rank: self.nodes[i] for i, ranks in enumerate(nodes) for rank in ranks}
        for node in self.nodes:
            self.happen("hello", node.stream, NODE, 0, 0, ())

    def happen(self, kind: str, *arguments: Any) -> None:
        super().happen(kind, *arguments)
        books, open_points = self.fold.books, self.fold.attempt.open_points()
        assert books.received == books.folded + open_points + books.late + books.rejected

    def log_rows(
        self, rank: int, steps: Sequence[int], values: Mapping[str, Sequence[float]], **more: Any
    ) -> None:
        times = more.get("times") or [self.now_ns] * len(steps)
        client, node = more.get("client") or self.clients[rank], self.node_of[rank]
        for i, step in enumerate(steps):
            node.note_row(client.attempt, rank, step)
            if self.rules.records_own_values(rank):
                client.add_rows(
                    [step], {name: [column[i]] for name, column in values.items()}, [times[i]], False
                )
                self.send(rank, client)
                continue
            row = {name: column[i] for name, column in values.items()}
            node.log(client.attempt, rank, step, row, times[i], client.row_number(step, values))

    def send(self, rank: int, client: Any = None) -> None:
        """What is no row of numbers goes on as the rank's part; see :meth:`pass_up`."""
        client = client or self.clients[rank]
        node, body = self.node_of[rank], client.body
        client.body = pb.BatchBody()
        node.add_part(client.stream, body, client.names)

    def forward(self, *, flushed: Sequence[int] = ()) -> None:
        """Every node forwards all that it has gathered, and who of ``flushed`` has flushed."""
        for node in self.nodes:
            node.add_contributions(node.gathered())
            self.add_flushes(node, flushed)
            self.pass_up(node)

    def add_flushes(self, node: Node, flushed: Iterable[int] = ()) -> None:
        """Put the progress of the node's ranks into its batch: those that have logged have flushed too."""
        here = sorted({rank for rank in flushed if self.node_of[rank] is node} | node.logged)
        node.logged.clear()
        for rank in here:
            if self.rules.records_own_values(rank):
                node.add_part(self.clients[rank].stream, pb.BatchBody(flushed=True))
        for attempt in range(1, self.attempt + 1):
            node.add_progress(attempt, [rank for rank in here if self.clients[rank].attempt == attempt])

    def flush(self, *ranks: int) -> None:
        self.forward(flushed=ranks)

    def pass_up(self, node: Node) -> None:
        """Send the node's batch as it is."""
        self.happen("batch", node.stream, node.take())


# ---- what is equal -------------------------------------------------------------------------------


Cells = dict[tuple[int, int, str], list[float | str]]


def cells_of(records: Sequence[Record]) -> Cells:
    """By attempt, step and column the values, in an order of their own: cells may close in another order."""
    cells: Cells = defaultdict(list)
    for record in records:
        for column, value in record.cells.items():
            cells[record.attempt, record.step, column].append(value)
    return {cell: sorted(values, key=_order) for cell, values in cells.items()}


def _order(value: float | str) -> tuple[bool, bool, float, str]:
    if isinstance(value, str):
        return True, False, 0.0, value
    return False, math.isnan(value), 0.0 if math.isnan(value) else value, ""


def assert_alike(flat: Sequence[Record], tree: Sequence[Record]) -> None:
    """The same cells: means and deviations within the bound between arrangements, others exactly."""
    expected, found = cells_of(flat), cells_of(tree)
    assert found.keys() == expected.keys()
    for (attempt, step, column), values in expected.items():
        metric, _, kind = column.rpartition("/")
        ends = [expected.get((attempt, step, f"{metric}/{end}"), []) for end in ("min", "max")]
        largest = max((abs(float(value)) for value in chain(*ends)), default=0.0)
        for value, other in zip(values, found[attempt, step, column], strict=True):
            if kind not in ("mean", "std") or isinstance(value, str) or not math.isfinite(value):
                assert same_bits(value, other), (attempt, step, column, value, other)
                continue
            assert not isinstance(other, str)
            bound = 1e-12 * largest if kind == "mean" else 1e-12 * value + 8 * EPS * largest
            assert abs(value - other) <= bound, (attempt, step, column, value, other)


def same_bits(a: float | str, b: float | str) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    return np.float64(a).tobytes() == np.float64(b).tobytes()
