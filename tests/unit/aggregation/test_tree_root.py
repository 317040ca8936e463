"""A run with nodes' daemons between its ranks and the root gives the records of one without."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.aggregation.replaying import assert_replays
from tests.support.aggregation.scenario import Scenario
from tests.support.aggregation.tree import Tree, assert_alike
from tracker_daemon.aggregation.shared.occurrence import BEFORE_ANY_STEP, Runs, next_occurrence

RANKS = 6
NAMES = ["loss", "acc", "lr"]

magnitudes = st.floats(-1e300, 1e300).filter(lambda x: x == 0 or abs(x) > 1e-140)
numbers = magnitudes | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e6 + 1e-9])
names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)
divisions = st.lists(st.integers(0, 2), min_size=RANKS, max_size=RANKS).map(
    lambda of: [ranks for node in range(3) if (ranks := [r for r in range(RANKS) if of[r] == node])]
)
rules = st.fixed_dictionaries(
    {
        "primary": st.sampled_from([0, 3]),
        "record": st.sampled_from(["", "1", "2,4", "all"]),
        "reporters": st.sampled_from(["", "lr=primary", "loss=all"]),
        "lagging_after": st.just(2),
    }
)

# ---- any division, any windows -------------------------------------------------------------------

Row = tuple[int, int, dict[str, float]]


@st.composite
def rows(draw: st.DrawFn) -> Row:
    some = draw(names)
    return draw(st.integers(0, RANKS - 1)), draw(st.integers(0, 6)), {name: draw(numbers) for name in some}


@settings(max_examples=100, deadline=None)
@given(
    st.data(), divisions, rules, st.lists(st.lists(rows(), min_size=1, max_size=25), min_size=1, max_size=4)
)
def test_any_division_of_the_ranks_and_any_windows_give_the_records_of_a_run_without_nodes(
    data: st.DataObject, nodes: list[list[int]], chosen: dict[str, Any], phases: list[list[Row]]
) -> None:
    flat, tree = Scenario(RANKS, **chosen), Tree(nodes, **chosen)
    for phase in phases:
        for rank, step, values in phase:
            flat.log(rank, step, values)
            tree.log(rank, step, values)
            if data.draw(st.booleans()):
                forward_some(data, tree)
        # By then every cell has closed, in both: as late as possible, whoever was waited for.
        flat.flush(*range(RANKS))
        tree.flush(*range(RANKS))
        for run in (flat, tree):
            run.wait(6)
            run.wait(31)
        assert flat.fold.steps.next_step == tree.fold.steps.next_step
    assert_alike(flat.records, tree.records)
    assert flat.fold.books.late_by_rank == tree.fold.books.late_by_rank
    assert flat.fold.books.folded == tree.fold.books.folded
    assert tree.fold.attempt.open_rows() == 0
    assert_replays(tree)


def forward_some(data: st.DataObject, tree: Tree) -> None:
    node = data.draw(st.sampled_from(tree.nodes))
    gathered = node.gathered()
    chosen = data.draw(st.lists(st.booleans(), min_size=len(gathered), max_size=len(gathered)))
    node.add_contributions([row for row, forward in zip(gathered, chosen, strict=True) if forward])
    tree.pass_up(node)


# ---- who is waited for ---------------------------------------------------------------------------

SOME = [0.1, -2.5, 1e6, 3.0, math.nan]
metrics = st.sampled_from([["loss"], ["acc"], ["lr"], ["loss", "acc"]])
actions = st.one_of(
    st.tuples(st.just("log"), st.sets(st.integers(0, RANKS - 1), min_size=1), st.integers(0, 6), metrics),
    st.tuples(st.just("log"), st.just(set(range(RANKS))), st.integers(0, 6), st.just(["loss", "acc"])),
    st.tuples(st.just("wait"), st.sampled_from([0, 0, 1, 6, 31])),
    st.tuples(st.just("flush"), st.sets(st.integers(0, RANKS - 1))),
    st.tuples(st.just("gone"), st.integers(0, RANKS - 1), st.sampled_from(["lost", "absent", "finished"])),
    st.tuples(st.just("join"), st.integers(0, RANKS - 1)),
    st.tuples(st.just("attempt"), st.integers(0, RANKS - 1)),
    st.tuples(st.just("restart")),
    st.tuples(st.just("overflow"), st.integers(1, 3)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(actions, min_size=5, max_size=40), divisions, rules, st.randoms(use_true_random=False))
def test_ranks_in_summaries_are_waited_for_learned_and_late_as_those_that_report_themselves(
    played: list[Any], nodes: list[list[int]], chosen: dict[str, Any], random: Any
) -> None:
    flat, tree, counts = Scenario(RANKS, **chosen), Tree(nodes, **chosen), Counts()
    together(flat, tree, nodes, {0}, 0, ["loss", "acc"], random, counts)
    for name, *arguments in played:
        if name == "log":
            together(flat, tree, nodes, *arguments, random, counts)
            continue
        for run in (flat, tree):
            happen(run, name, *arguments)
        if name == "attempt":
            together(flat, tree, nodes, {*arguments}, 0, ["loss", "acc"], random, counts)
        assert standing(flat) == standing(tree)
    for run in (flat, tree):
        run.tick()
        run.finish(*range(RANKS))
        if isinstance(run, Tree):
            run.forward()
        run.wait(31)
    assert standing(flat) == standing(tree)
    assert_alike(flat.records, tree.records)
    assert_replays(tree)


def test_the_oldest_rows_are_those_of_lower_steps_if_they_opened_in_one_tick_in_whatever_order() -> None:
    chosen: dict[str, Any] = {"primary": 3, "record": "", "reporters": "", "lagging_after": 2}
    nodes = [list(range(RANKS))]
    flat, tree, counts = Scenario(RANKS, **chosen), Tree(nodes, **chosen), Counts()
    random = Random(1)
    together(flat, tree, nodes, {0}, 0, ["loss", "acc"], random, counts)
    together(flat, tree, nodes, {1}, 0, ["loss"], random, counts)
    for run in (flat, tree):
        run.wait(31)
    for step, metrics in ((1, ["loss"]), (1, ["loss"]), (0, ["loss", "acc"])):
        log_and_forward(flat, tree, tree.node_of[0], [0], step, metrics, random)
    # The last row has cells of two occurrences; flat and tree see them in a different order.
    for run in (flat, tree):
        run.overflow(3)
        run.tick()
    assert standing(flat) == standing(tree)
    assert standing(flat)["open"] == (1, 1)


class Counts:
    """The occurrences that ranks' values have, counted beside the folds."""

    def __init__(self) -> None:
        self.states: dict[tuple[int, int, str], tuple[int, Runs]] = {}
        self.highest: dict[tuple[int, int], int] = {}

    def goes_on(self, flat: Scenario, rank: int, step: int) -> bool:
        """Return True, and note the step, if it is not below one that the rank has logged."""
        key = flat.fold.streams[flat.clients[rank].stream].attempt, rank
        if step < self.highest.get(key, step):
            return False
        self.highest[key] = step
        return True

    def of(self, flat: Scenario, rank: int, step: int, metrics: list[str]) -> tuple[int, ...]:
        """Count one value of each metric."""
        attempt = flat.fold.streams[flat.clients[rank].stream].attempt
        found = []
        for metric in metrics:
            first, runs = self.states.get((attempt, rank, metric), (int(BEFORE_ANY_STEP), ()))
            occurrence, first, runs = next_occurrence(first, runs, step)
            self.states[attempt, rank, metric] = first, runs
            found.append(occurrence)
        return tuple(found)


def together(
    flat: Scenario,
    tree: Tree,
    nodes: list[list[int]],
    ranks: set[int],
    step: int,
    metrics: list[str],
    random: Any,
    counts: Counts,
) -> None:
    """These ranks log one step, node by node, those that lag last; each node forwards it at once.

    A node sends the cells of a step by occurrence, and not in the order of ranks and calls. So values that
    have other occurrences follow apart: which cell of one tick is the older is not the matter here.

    No rank goes back behind its highest step. A node says of a whole row, not of each of its cells, how far a
    rank must have logged to have passed it, so the root may wait longer. The outcome after steps that go back
    is compared in ``test_rows``.
    """
    ranks = {rank for rank in ranks if counts.goes_on(flat, rank, step)}
    for node in nodes:
        behind = set(flat.fold.attempt.lagging)
        alike: dict[tuple[bool, int, tuple[str, ...]], list[int]] = {}
        for rank in sorted(ranks.intersection(node), key=lambda rank: (rank in behind, rank)):
            found = counts.of(flat, rank, step, metrics)
            for occurrence in sorted(set(found)):
                some = tuple(name for name, one in zip(metrics, found, strict=True) if one == occurrence)
                alike.setdefault((rank in behind, occurrence, some), []).append(rank)
        daemon = tree.node_of[node[0]]
        daemon.behind = behind
        for (_, _, some), group in alike.items():
            log_and_forward(flat, tree, daemon, group, step, some, random)
        if not alike:
            log_and_forward(flat, tree, daemon, [], step, (), random)


def log_and_forward(
    flat: Scenario, tree: Tree, daemon: Any, ranks: list[int], step: int, metrics: Sequence[str], random: Any
) -> None:
    """These ranks of one node log one step each; its daemon forwards it at once."""
    for rank in ranks:
        values = {metric: random.choice(SOME) for metric in metrics}
        flat.log(rank, step, values)
        tree.log(rank, step, values)
    daemon.add_contributions(daemon.gathered())
    tree.add_flushes(daemon)
    tree.pass_up(daemon)


def happen(run: Scenario, name: str, *arguments: Any) -> None:
    if name == "attempt":
        run.join(arguments[0], attempt=run.attempt + 1)
    elif name == "flush":
        run.flush(*arguments[0])
    else:
        doing = {"wait": run.wait, "gone": run.lose, "join": run.join}
        doing |= {"restart": run.restart, "overflow": run.overflow}
        doing[name](*arguments)


def standing(run: Scenario) -> dict[str, Any]:
    """What there is to see of a run after each event, other than numbers."""
    attempt = run.fold.attempt
    return {
        "emitted": sorted((r.attempt, r.step, sorted(r.cells)) for r in run.records),
        "open": (attempt.open_rows(), attempt.open_points()),
        "learning": attempt.is_learning(),
        "lagging": set(attempt.lagging),
        "deadline": run.fold.next_deadline_ns(),
        "missed": attempt.missed,
        "late": run.fold.books.late_by_rank,
        "folded": run.fold.books.folded,
        "notices": sorted(notice.partition(" (first:")[0] for notice in run.notices),
    }
