"""The fold of a root, fed by those of its nodes' daemons, gives the records of a run without nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.aggregation.node_scenario import batches_of
from tests.support.aggregation.replaying import assert_replays
from tests.support.aggregation.scenario import Client, Scenario
from tests.support.aggregation.tree import assert_alike
from tracker_daemon.aggregation.node.fold import NodeFold
from tracker_daemon.aggregation.shared.stream import NODE
from tracker_daemon.wire.batches import decode_batch

RANKS = 6


class TreeOfFolds(Scenario):
    """A run whose ranks send their batches to ``nodes``, by the ranks of each; the fold is the root's."""

    def __init__(self, nodes: Sequence[Sequence[int]], **settings: Any) -> None:
        self.nodes: dict[bytes, NodeFold] = {}
        self.node_of: dict[int, NodeFold] = {}
        self._ranks_of = nodes
        super().__init__(sum(map(len, nodes)), connected=[], **settings)
        for number, ranks in enumerate(nodes):
            fold = self.nodes[bytes([255, number]) * 8] = NodeFold(self.rules)
            self.node_of.update(dict.fromkeys(ranks, fold))
        for stream in self.nodes:
            self.happen("hello", stream, NODE, 0, 0, ())
        for rank in range(self.world_size):
            self.join(rank)

    def _hello(self, client: Client, rank: int, world_size: int) -> None:
        names = tuple(client.names)
        self.happen("hello", client.stream, rank, world_size, client.attempt, ())
        self.node_of[rank].hello(client.stream, rank, world_size, client.attempt, names, self.now_ns)

    def send(self, rank: int, client: Client | None = None) -> None:
        client, node = client or self.clients[rank], self.node_of[rank]
        batch = decode_batch(client.take(), len(node.names_of(client.stream)))
        node.batch(client.stream, batch, self.now_ns)

    def flush(self, *ranks: int) -> None:
        for rank in ranks:
            self.node_of[rank].flushed(self.clients[rank].stream, self.now_ns)

    def cut(self, *, everything: bool) -> None:
        """Every node forwards what it is to forward now."""
        for stream, node in self.nodes.items():
            node.forward(everything=everything)
            for forwarded in batches_of(node.settle(self.now_ns)):
                self.happen("batch", stream, forwarded.body)


ranks = st.integers(0, RANKS - 1)
steps = st.integers(0, 6)
values = st.sampled_from([0.1, -2.5, 1e6 + 1e-9, 3.0, -0.0, 1e300, math.nan, math.inf, -math.inf])
metrics = st.sampled_from(["loss", "acc", "lr"])
actions = st.one_of(
    st.tuples(st.just("log"), ranks, steps, st.dictionaries(metrics, values, min_size=1)),
    st.tuples(st.just("log"), ranks, steps, st.dictionaries(metrics, values, min_size=1)),
    st.tuples(st.just("say"), ranks, steps),
    st.tuples(st.just("log_own"), ranks, steps, st.dictionaries(st.just("grad/p50"), values, min_size=1)),
    st.tuples(st.just("give"), ranks, st.just("table"), st.just("samples"), steps),
    st.tuples(st.just("cut")),
)
divisions = st.lists(st.integers(0, 2), min_size=RANKS, max_size=RANKS).map(
    lambda of: [ranks for node in range(3) if (ranks := [r for r in range(RANKS) if of[r] == node])]
)
rules = st.fixed_dictionaries(
    {
        "primary": st.sampled_from([0, 3]),
        "record": st.sampled_from(["", "1", "2,4", "all"]),
        "items": st.sampled_from(["", "2"]),
        "reporters": st.sampled_from(["", "lr=primary"]),
    }
)


@settings(max_examples=100, deadline=None)
@given(divisions, rules, st.lists(st.lists(actions, max_size=25), min_size=1, max_size=4))
def test_the_folds_of_nodes_and_root_together_give_the_records_of_one_fold(
    nodes: list[list[int]], chosen: dict[str, Any], phases: list[list[Any]]
) -> None:
    flat, tree = Scenario(RANKS, **chosen), TreeOfFolds(nodes, **chosen)
    for phase in phases:
        for name, *arguments in phase:
            if name == "cut":
                tree.cut(everything=False)
                continue
            for run in (flat, tree):
                happen(run, name, *arguments)
        close_all_cells(flat)
        close_all_cells(tree)
        assert {**dict.fromkeys(range(RANKS), 0), **tree.fold.steps.next_step} == {
            **dict.fromkeys(range(RANKS), 0),
            **flat.fold.steps.next_step,
        }
    assert_alike(flat.records, tree.records)
    assert flat.fold.books.late_by_rank == tree.fold.books.late_by_rank
    by_rank = [sorted(run.items, key=lambda item: item.rank) for run in (flat, tree)]
    assert by_rank[0] == by_rank[1]
    assert_replays(tree)


def happen(run: Scenario, name: str, *arguments: Any) -> None:
    if name == "say":
        run.say(*arguments, note="x")
    elif name == "give":
        rank, kind, key, step = arguments
        run.give(rank, kind, key, step=step)
    else:
        {"log": run.log, "log_own": run.log_own}[name](*arguments)


def close_all_cells(run: Scenario) -> None:
    """Wait until every cell has closed, whoever was waited for."""
    run.flush(*range(RANKS))
    if isinstance(run, TreeOfFolds):
        run.cut(everything=True)
    run.wait(6)
    run.wait(31)


def test_a_run_of_nodes_ends_with_its_ranks_and_their_exit_codes() -> None:
    run = TreeOfFolds([[0, 1], [2]])
    for rank in range(3):
        run.configure(rank, '{"lr": 0.1}')
        run.log(rank, 0, loss=rank)
        run.finish(rank, code=rank)
    run.cut(everything=False)
    run.tick()
    assert run.row(0)["loss/mean"] == 1.0
    assert run.fold.over()
    assert run.fold.summary().exit_codes == {0: 0, 1: 1, 2: 2}
    assert run.configs


def test_what_a_node_has_of_an_older_attempt_comes_late_and_into_its_attempt() -> None:
    run = TreeOfFolds([[0, 1], [2, 3]])
    for rank in range(4):
        run.log(rank, 0, loss=rank)
    run.cut(everything=False)
    run.tick()
    for rank in range(4):
        run.log(rank, 1, loss=rank)
    for rank in range(4):
        run.join(rank, attempt=2)
        run.log(rank, 2, loss=rank)
    run.cut(everything=False)
    run.tick()
    assert run.fold.books.late_by_rank == dict.fromkeys(range(4), 1)
    assert run.row(1, attempt=1) == {"loss": 0.0}
    assert run.row(2, attempt=2)["loss/mean"] == 1.5
