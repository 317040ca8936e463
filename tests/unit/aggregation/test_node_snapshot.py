"""A node's fold is what its events make it: from a snapshot or the beginning, it forwards the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.aggregation.node_scenario import (
    NodeScenario,
    apply,
    batches_of,
    contributions_of,
    dump,
    load,
)
from tests.support.aggregation.scenario import Scenario, Tick
from tracker_daemon.aggregation.node import snapshot as node_snapshot
from tracker_daemon.aggregation.node.fold import NodeFold
from tracker_daemon.aggregation.root import snapshot
from tracker_daemon.aggregation.shared.fold import TickOutput
from tracker_daemon.errors import JournalError
from tracker_protocol.v1 import tracker_pb2 as pb

RANKS = (1, 4, 5)


def replay(fold: NodeFold, ticks: Sequence[Tick]) -> list[TickOutput]:
    settled = []
    for now_ns, events in ticks:
        for event in events:
            apply(fold, event, now_ns)
        settled.append(fold.settle(now_ns))
    return settled


def said(settled: Sequence[TickOutput]) -> list[tuple[Any, ...]]:
    return [(tick.notices, batches_of(tick)) for tick in settled]


def assert_replays(node: NodeScenario) -> None:
    """From a snapshot after any tick on, and from the beginning, the same comes out and is left."""
    whole = NodeFold(node.rules)
    saved, settled = [dump(whole)], []
    for tick in node.ticks:
        settled += replay(whole, [tick])
        saved.append(dump(whole))
    assert [batch for tick in settled for batch in batches_of(tick)] == node.forwarded
    assert dump(node.fold) == saved[-1]
    for position, payload in enumerate(saved):
        fold = load(payload, node.rules)
        assert dump(fold) == payload
        assert said(replay(fold, node.ticks[position:])) == said(settled[position:])
        assert dump(fold) == saved[-1]
        assert fold.activity() == whole.activity()
        assert fold.summary() == whole.summary()
        assert (fold.over(), fold.outcome) == (whole.over(), whole.outcome)


# ---- any sequence of events ----------------------------------------------------------------------

ranks = st.sampled_from(RANKS)
names = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, unique=True)


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[int], dict[str, list[float]], bool]:
    steps = draw(st.lists(st.integers(0, 8), min_size=1, max_size=4))
    some = st.lists(st.floats(width=64), min_size=len(steps), max_size=len(steps))
    return sorted(steps), {name: draw(some) for name in draw(names)}, draw(st.booleans())


Action = tuple[str, tuple[Any, ...]]
actions: st.SearchStrategy[Action] = st.one_of(
    st.tuples(st.just("rows"), st.tuples(ranks, rows())),
    st.tuples(st.just("rows"), st.tuples(ranks, rows())),
    st.tuples(st.sampled_from(["say", "own", "configure", "item", "file"]), st.tuples(ranks)),
    st.tuples(st.sampled_from(["finish", "flush", "lose"]), st.tuples(ranks)),
    st.tuples(st.just("drop"), st.tuples(ranks, st.integers(0, 5))),
    st.tuples(st.just("join"), st.tuples(ranks, st.integers(1, 4))),
    st.tuples(st.just("cut"), st.tuples(st.booleans())),
    st.tuples(st.sampled_from(["tick", "tick", "gap", "reject", "overflow"]), st.just(())),
    st.tuples(st.sampled_from(["tick", "end", "over"]), st.just(())),
)


def act(node: NodeScenario, action: Action) -> None:
    kind, arguments = action
    if kind == "rows":
        rank, (steps, values, automatic) = arguments
        node.log_rows(rank, steps, values, automatic=automatic)
    elif kind == "join":
        rank, attempt = arguments
        node.join(rank, attempt=attempt if attempt > node.attempt else None)
    else:
        perform = {
            "say": lambda rank: node.say(rank, 2, note="x", other="y"),
            "own": lambda rank: node.log_own(rank, 3, {"norm": 1.5}),
            "configure": lambda rank: node.configure(rank, '{"lr": 1}'),
            "item": lambda rank: node.give(rank, "table", "t"),
            "file": lambda rank: node.give(rank, "artifact", "t", contents=[CONTENT]),
            "gap": lambda: node.gap(2),
            "overflow": lambda: node.overflow(1),
            "over": node.say_over,
            "cut": lambda everything: node.cut(everything=everything),
        }
        perform.get(kind, getattr(node, kind, None))(*arguments)


CONTENT = pb.Content(sha256=bytes(32), size_bytes=1, path="f")


@settings(max_examples=150, deadline=None)
@given(st.lists(actions, max_size=25))
def test_a_snapshot_and_the_later_events_give_what_all_events_give(run: list[Action]) -> None:
    node = NodeScenario(8, connected=RANKS, record="4", items="5", primary=1)
    for action in run:
        act(node, action)
    node.tick()
    node.cut_and_tick(everything=True)
    assert_replays(node)


# ---- what a snapshot must hold -------------------------------------------------------------------


def test_a_snapshot_amid_a_run_loses_nothing_that_waits() -> None:
    node = NodeScenario(8, connected=RANKS, primary=1)
    for rank in RANKS:
        node.log(rank, step=0, loss=rank)
    node.cut_and_tick()
    node.log_rows(4, range(20), {"loss": np.arange(20.0)})  # a repeat of step 0, and more rows than at first
    node.log_rows(5, [0], {"accuracy": [1.0]}, automatic=True)
    node.flush(4)
    node.say(1, 4, note="x")
    node.gap(3)
    node.tick()
    node.fold = load(dump(node.fold), node.rules)
    told = node.cut_and_tick(everything=True)
    assert len(node.told_values) == 3 + 20 + 1
    assert node.cell("loss", 0, occurrence=1) == {(4,): 0.0}
    assert sum(batch.dropped_points for batch in told) == 3
    assert [c.occurrences.max() for c in contributions_of(told)] == [1, 0]
    assert_replays(node)


def test_a_snapshot_of_another_kind_of_fold_or_another_format_is_refused() -> None:
    node, run = NodeScenario(2), Scenario(2)
    with pytest.raises(JournalError, match="was recording it"):
        load(snapshot.dump(run.fold), node.rules)
    with pytest.raises(JournalError, match="was forwarding it"):
        snapshot.load(dump(node.fold), run.rules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_snapshot, "FORMAT", node_snapshot.FORMAT + 1)
        payload = dump(node.fold)
    with pytest.raises(JournalError, match="finish the run with the version that began it"):
        load(payload, node.rules)
