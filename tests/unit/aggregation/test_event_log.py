"""The journal is one ordered event log: a snapshot and the later events give what the whole log gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.aggregation.replaying import assert_replays
from tests.support.aggregation.scenario import Scenario
from tracker_daemon.aggregation.root import snapshot
from tracker_daemon.aggregation.root.fold import RootFold
from tracker_daemon.aggregation.shared import marks
from tracker_daemon.errors import JournalError

RANKS = 3


# ---- any sequence of events ----------------------------------------------------------------------

ranks = st.integers(0, RANKS - 1)
names = st.lists(st.sampled_from(["a", "b", "a/mean", "a/rank1", "lr"]), min_size=1, max_size=3, unique=True)
values = st.floats(width=64)


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[int], dict[str, list[float]]]:
    steps = draw(st.lists(st.integers(0, 8), min_size=1, max_size=5))
    if draw(st.booleans()):
        steps = sorted(set(steps))
    some = st.lists(values, min_size=len(steps), max_size=len(steps))
    return steps, {name: draw(some) for name in draw(names)}


Action = tuple[str, tuple[Any, ...]]
actions: st.SearchStrategy[Action] = st.one_of(
    st.tuples(st.just("rows"), st.tuples(ranks, rows())),
    st.tuples(st.just("rows"), st.tuples(ranks, rows())),
    st.tuples(st.just("wait"), st.tuples(st.sampled_from([0, 0, 0, 1, 6, 31]))),
    st.tuples(st.just("wait"), st.tuples(st.sampled_from([0, 0, 0, 1, 6, 31]))),
    st.tuples(st.just("say"), st.tuples(ranks, st.integers(0, 8))),
    st.tuples(st.just("flush"), st.tuples(ranks)),
    st.tuples(st.just("gone"), st.tuples(ranks, st.sampled_from(["lost", "absent", "finished"]))),
    st.tuples(st.just("join"), st.tuples(ranks)),
    st.tuples(st.just("attempt"), st.tuples(ranks)),
    st.tuples(st.just("old"), st.tuples(ranks, rows())),
    st.tuples(st.just("drop"), st.tuples(ranks, st.integers(0, 9))),
    st.tuples(st.just("restart"), st.just(())),
    st.tuples(st.just("overflow"), st.tuples(st.integers(1, 5))),
    st.tuples(st.just("end"), st.just(())),
)


def play(run: Scenario, played: Sequence[Action]) -> None:
    old = dict(run.clients)
    doing: dict[str, Callable[..., object]] = {
        "rows": lambda rank, block: run.log_rows(rank, block[0], block[1], automatic=rank == 1),
        "wait": run.wait,
        "say": lambda rank, step: run.say(rank, step, note="x"),
        "flush": run.flush,
        "gone": run.lose,
        "join": run.join,
        "attempt": lambda rank: run.join(rank, attempt=run.attempt + 1),
        "old": lambda rank, block: run.log_rows(rank, block[0], block[1], client=old[rank]),
        "drop": run.drop,
        "restart": run.restart,
        "overflow": run.overflow,
        "end": run.end,
    }
    for name, arguments in played:
        doing[name](*arguments)
    run.tick()
    run.finish(*range(RANKS))
    run.wait(31)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(actions, min_size=10, max_size=60),
    st.sampled_from([0, RANKS]),
    st.sampled_from(["", "1", "all"]),
    st.sampled_from(["", "lr=primary,a=all"]),
)
def test_a_snapshot_at_any_tick_and_a_replay_of_the_rest_give_the_same_bits(
    played: list[Action], world_size: int, record: str, reporters: str
) -> None:
    run = Scenario(world_size, range(RANKS), record=record, reporters=reporters, lagging_after=2)
    play(run, played)
    assert_replays(run)


@settings(max_examples=50, deadline=None)
@given(st.lists(actions, min_size=10, max_size=40))
def test_with_few_closed_marks_a_replay_gives_the_same_bits_too(played: list[Action]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marks.limits, "CLOSED_MARKS_PER_PANEL", 3)
        run = Scenario(RANKS, lagging_after=2)
        play(run, played)
        assert_replays(run)


@settings(max_examples=50, deadline=None)
@given(st.lists(actions, max_size=30), st.lists(st.integers(-40, 40), min_size=30, max_size=30))
def test_a_clock_that_steps_back_changes_nothing_of_that(played: list[Action], jumps: list[int]) -> None:
    run = Scenario(RANKS)
    for (name, arguments), jump in zip(played, jumps, strict=False):
        if name == "wait":
            run.wait(jump)
        elif name == "rows":
            run.log_rows(arguments[0], arguments[1][0], arguments[1][1])
    run.tick()
    assert_replays(run)


# ---- what a snapshot is --------------------------------------------------------------------------


def test_lagging_and_learned_sets_survive_a_snapshot() -> None:
    run = Scenario(2, lagging_after=2)
    for rank in (0, 1):
        run.log(rank, 0, a=rank)
    run.tick()
    run.log_rows(0, [1, 2], {"a": [1, 1]})
    run.tick()
    run.wait(30)
    fold = snapshot.load(snapshot.dump(run.fold), run.rules)
    assert fold.attempt.lagging == {1}
    assert not fold.attempt.is_learning()
    assert_replays(run)


def test_a_snapshot_with_open_cells_carries_their_values() -> None:
    run = Scenario(2)
    run.log_rows(0, range(200), {"a": list(range(200))})
    run.tick()
    run.log_rows(1, range(200), {"a": list(range(200))})
    run.tick()
    assert_replays(run)
    assert run.row(199)["a/mean"] == 199


def test_texts_and_late_values_that_wait_for_their_record_survive_a_snapshot() -> None:
    run = Scenario(2)
    for rank in (0, 1):
        run.log(rank, 0, a=rank)
    run.tick()
    run.log(1, 1, a=1)
    run.wait(30)
    run.log(0, 1, a=7, b=1)
    run.say(0, 1, note="x")
    run.tick()
    assert "a" not in run.row(1)
    run.log(1, 1, b=1)
    run.tick()
    assert run.records[-1].cells.items() >= {"a": 7, "note": "x", "b/mean": 1}.items()
    assert_replays(run)


def test_an_attempt_that_is_over_survives_a_snapshot() -> None:
    run = Scenario(1)
    old = run.clients[0]
    run.log(0, 0, a=1)
    run.tick()
    run.join(0, attempt=2)
    run.tick()
    run.log_rows(0, [0], {"a": [5]}, client=old)
    run.tick()
    assert [(r.attempt, r.step, r.occurrence) for r in run.records] == [(1, 0, 0), (1, 0, 1)]
    assert_replays(run)


def test_a_warning_that_was_given_is_not_given_again_after_a_restart() -> None:
    run = Scenario(1)
    for _ in range(20):
        run.log(0, 0, a=1)
    run.tick()
    fold = snapshot.load(snapshot.dump(run.fold), run.rules)
    assert fold.books.warned == run.fold.books.warned


def test_a_snapshot_of_another_format_is_refused_with_what_to_do() -> None:
    payload = snapshot.dump(RootFold(Scenario(1).rules))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "FORMAT", snapshot.FORMAT + 1)
        with pytest.raises(JournalError, match="finish the run with the version that began it"):
            snapshot.load(payload, Scenario(1).rules)
