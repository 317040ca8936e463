"""A node's part of a run, played as a sequence of events; what it forwards is decoded as its root does.

    node = NodeScenario(world_size=4, connected=[2, 3])
    node.log(2, step=0, loss=1.0)
    node.cut()
    (told,) = node.tick()

After each tick the scenario checks what must hold at all times: the books balance, bodies are below their
size, names are told once, and no value is told twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tests.support.aggregation.scenario import Event, Scenario
from tests.support.aggregation.scenario import apply as apply_any
from tracker_daemon.aggregation.node import snapshot as node_snapshot
from tracker_daemon.aggregation.node.fold import NodeFold
from tracker_daemon.aggregation.shared.fold import TickOutput
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.values.batch import DecodedBatch, NodeReport
from tracker_daemon.aggregation.values.contribution import Contribution
from tracker_daemon.wire.batches import decode_batch, decode_journalled, encode_batch
from tracker_daemon.wire.node_batches import ForwardedBatch, encode_forwarded
from tracker_protocol import limits

Value = tuple[int, int, str, int, int]
"""(attempt, rank, metric, step, occurrence)"""


def apply(fold: NodeFold, event: Event, now_ns: int) -> None:
    kind, arguments = event
    if kind == "cut":
        fold.forward(everything=arguments[0])
    else:
        apply_any(fold, event, now_ns)


def dump(fold: NodeFold) -> bytes:
    """The fold's snapshot, as the recorder writes it."""
    return node_snapshot.dump(fold, encode_batch)


def load(payload: bytes, rules: Rules) -> NodeFold:
    return node_snapshot.load(payload, rules, decode_journalled)


def batches_of(settled: TickOutput) -> tuple[ForwardedBatch, ...]:
    """The batches that go to the root."""
    return () if settled.forwarded is None else encode_forwarded(settled.forwarded)


class NodeScenario(Scenario):
    """A node with the ranks ``connected``, of a run of ``world_size``."""

    flushes = False

    def __init__(self, world_size: int = 4, connected: Sequence[int] | None = None, **settings: Any) -> None:
        super().__init__(world_size, [], **settings)
        self.fold: NodeFold = NodeFold(self.rules)  # type: ignore[assignment]
        self.names: list[str] = []
        self.forwarded: list[ForwardedBatch] = []
        self.told: list[DecodedBatch] = []
        self.told_values: set[Value] = set()
        self._parts = Expected()
        for rank in range(world_size) if connected is None else connected:
            self.join(rank)

    def happen(self, kind: str, *arguments: Any) -> None:
        self.events.append((kind, arguments))
        apply(self.fold, (kind, arguments), self.now_ns)
        self._check_books()

    def cut(self, *, everything: bool = False) -> None:
        self.happen("cut", everything)

    def say_over(self, status: str = "FINISHED", reason: str = "") -> None:
        """The root says that the run has ended."""
        self.happen("ended_by_root", status, reason)

    # ---- time ------------------------------------------------------------------------------------

    def tick(self) -> list[DecodedBatch]:  # type: ignore[override]
        """Commit; what was forwarded."""
        settled = self.fold.settle(self.now_ns)
        self.ticks.append((self.now_ns, self.events))
        self.events = []
        self.notices += settled.notices
        batches = batches_of(settled)
        self.forwarded += batches
        told = [self._decode(forwarded) for forwarded in batches]
        self.told += told
        self._check_books()
        assert self.fold.dictionary() == self.names
        return told

    def cut_and_tick(self, *, everything: bool = False) -> list[DecodedBatch]:
        self.cut(everything=everything)
        return self.tick()

    def _decode(self, forwarded: ForwardedBatch) -> DecodedBatch:
        decoded = decode_batch(forwarded.body, len(self.names))
        assert not set(decoded.names) & set(self.names)
        self.names += decoded.names
        items = [item for _, part in parts_of([decoded]) for item in part.items]
        assert len(forwarded.body) <= limits.BATCH_TARGET_BYTES or items
        assert forwarded.contents == {content.sha256 for item in items for content in item.contents}
        for contribution in contributions_of([decoded]):
            self._note_values(values_in(contribution, self.names))
        for stream, part in parts_of([decoded]):
            self._note_values(self._noted_in(stream, part))
        return decoded

    def _note_values(self, values: Iterable[Value]) -> None:
        for value in values:
            assert value not in self.told_values, value
            self.told_values.add(value)

    def _noted_in(self, stream: bytes, part: DecodedBatch) -> set[Value]:
        """The values in rows that are forwarded as they are."""
        before = set(self._parts.values)
        for rows in part.rows:
            if not rows.own:
                names = [self.names[key] for key in rows.keys]
                columns = dict(zip(names, rows.values.T.tolist(), strict=True))
                self._parts.note(stream[1], stream[0], rows.steps.tolist(), columns)
        return self._parts.values.keys() - before

    def _check_books(self) -> None:
        books = self.fold.summary().books
        assert books["received"] == sum(books[name] for name in ("folded", "open", "late", "rejected"))

    # ---- what was forwarded ----------------------------------------------------------------------

    def cell(self, metric: str, step: int, occurrence: int = 0) -> dict[tuple[int, ...], Any]:
        """By the ranks of each contribution to a cell: the value of one rank, the statistics of several."""
        found: dict[tuple[int, ...], Any] = {
            (rank,): value
            for (_, rank, name, *at), value in self._parts.values.items()
            if (name, *at) == (metric, step, occurrence)
        }
        for contribution in contributions_of(self.told):
            names = [self.names[key] for key in contribution.keys]
            at = (contribution.steps == step) & (contribution.occurrences == occurrence)
            if metric in names and at.any():
                row, column = int(at.argmax()), names.index(metric)
                ranks = tuple(contribution.ranks.tolist())
                if contribution.values is not None:
                    found[ranks] = float(contribution.values[row, column])
                else:
                    found[ranks] = contribution.summary[row, column]
        return found


# ---- what batches say ----------------------------------------------------------------------------


def news_of(told: Sequence[DecodedBatch]) -> Iterator[NodeReport]:
    return (batch.forwarded for batch in told if batch.forwarded is not None)


def contributions_of(told: Sequence[DecodedBatch]) -> list[Contribution]:
    return [contribution for news in news_of(told) for contribution in news.contributions]


def parts_of(told: Sequence[DecodedBatch]) -> list[tuple[bytes, DecodedBatch]]:
    return [part for news in news_of(told) for part in news.parts]


def flushed_in(told: Sequence[DecodedBatch]) -> list[int]:
    """The ranks that are told to have flushed, in order."""
    return [
        rank
        for news in news_of(told)
        for progress in news.progress
        for rank in progress.ranks[progress.flushed].tolist()
    ]


def finished_in(told: Sequence[DecodedBatch]) -> dict[bytes, int]:
    """Exit codes, by stream."""
    return {stream: part.finish for stream, part in parts_of(told) if part.finish is not None}


def values_in(contribution: Contribution, names: Sequence[str]) -> Iterator[Value]:
    rows = list(zip(contribution.steps.tolist(), contribution.occurrences.tolist(), strict=True))
    for rank in contribution.ranks.tolist():
        for key in contribution.keys:
            for step, occurrence in rows:
                yield contribution.attempt, rank, names[key], step, occurrence


class Expected:
    """What ranks have logged: by cell the values of each rank, with occurrences counted the slow way."""

    def __init__(self) -> None:
        self.values: dict[Value, float] = {}
        self._logged: dict[tuple[int, int, str], list[int]] = defaultdict(list)

    def note(
        self, attempt: int, rank: int, steps: Sequence[int], rows: Mapping[str, Sequence[float]]
    ) -> None:
        for name, values in rows.items():
            highs = self._logged[attempt, rank, name]
            for step, value in zip(steps, values, strict=True):
                occurrence = sum(high >= step for high in highs)
                if occurrence >= limits.OCCURRENCES_PER_STEP_MAX:
                    continue
                highs[occurrence : occurrence + 1] = [step]
                self.values[attempt, rank, name, step, occurrence] = value

    def check(self, contribution: Contribution, names: Sequence[str]) -> None:
        """Compare a contribution with the values themselves."""
        for i in range(len(contribution.steps)):
            step, occurrence = int(contribution.steps[i]), int(contribution.occurrences[i])
            for j, key in enumerate(contribution.keys):
                values = [
                    self.values[contribution.attempt, rank, names[key], step, occurrence]
                    for rank in contribution.ranks.tolist()
                ]
                self._check_cell(contribution, (i, j), np.array(values))

    @staticmethod
    def _check_cell(contribution: Contribution, at: tuple[int, int], values: np.ndarray) -> None:
        if contribution.values is not None:
            assert contribution.values[at].tobytes() == values[0].tobytes()
            return
        found = contribution.summary[at]
        finite = values[np.isfinite(values)]
        assert found.count == len(values) > 1
        assert found.nans == np.isnan(values).sum()
        assert found.infinities == (values == np.inf).sum()
        assert found.negative_infinities == (values == -np.inf).sum()
        if len(finite):
            ranks = contribution.ranks[np.isfinite(values)]
            assert abs(found.mean - finite.mean()) <= 1e-12 * np.abs(finite).max()
            assert (found.minimum, found.maximum) == (finite.min(), finite.max())
            assert found.minimum_rank == ranks[finite.argmin()]
            assert found.maximum_rank == ranks[finite.argmax()]
