"""What a node's daemon forwards of its ranks' values: each once, dense or reduced, and when."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.aggregation.node_scenario import (
    Expected,
    NodeScenario,
    contributions_of,
    parts_of,
)
from tracker_daemon.aggregation.node.fold import NodeFold
from tracker_daemon.aggregation.numbers.summary import statistics
from tracker_daemon.aggregation.shared.fold import Fold
from tracker_protocol import limits


def test_it_is_a_fold() -> None:
    fold: Fold = NodeFold(NodeScenario().rules)
    assert not fold.over()
    assert fold.activity().deadline_ns is None


# ---- whose values go as they are -----------------------------------------------------------------


def test_ranks_that_are_not_recorded_go_as_one_summary() -> None:
    node = NodeScenario(8, connected=[4, 5, 6])
    for rank in (6, 4, 5):
        node.log(rank, step=0, loss=float(rank), lr=1.0)
    (told,) = node.cut_and_tick()
    (contribution,) = contributions_of([told])
    assert contribution.ranks.tolist() == [4, 5, 6]
    loss = node.cell("loss", 0)[4, 5, 6]
    assert (loss.mean, loss.minimum, loss.minimum_rank, loss.maximum_rank) == (5.0, 4.0, 4, 6)
    assert loss.std == pytest.approx(np.std([4, 5, 6]))


def test_the_primary_and_recorded_ranks_go_bit_by_bit() -> None:
    node = NodeScenario(4, record="2")
    odd = [-0.0, 5e-324, np.nan, 0.1]
    for rank in range(4):
        node.log(rank, step=0, loss=odd[rank])
    node.cut_and_tick()
    cell = node.cell("loss", 0)
    assert set(cell) == {(0,), (2,), (1, 3)}
    assert np.float64(cell[0,]).tobytes() == np.float64(-0.0).tobytes()
    assert np.isnan(cell[2,])
    assert statistics(cell[1, 3]).mean == np.mean([5e-324, 0.1])


def test_a_metric_that_one_rank_alone_reports_stays_that_rank_s() -> None:
    node = NodeScenario(8, connected=[4, 5])
    for rank in (4, 5):
        node.log(rank, step=0, loss=1.0)
    node.log(5, step=0, accuracy=0.25)
    node.cut_and_tick()
    assert node.cell("accuracy", 0) == {(5,): 0.25}
    # Another rank reports it as well from now on: the first one's is recorded plain all the same.
    for rank in (4, 5):
        node.log(rank, step=1, accuracy=float(rank))
    node.cut_and_tick()
    assert node.cell("accuracy", 1) == {(4,): 4.0, (5,): 5.0}


def test_a_metric_of_several_ranks_has_no_sole_reporter_later() -> None:
    node = NodeScenario(8, connected=[4, 5, 6])
    for rank in (4, 5):
        node.log(rank, step=0, loss=1.0)
    node.cut_and_tick()
    for rank in (4, 5, 6):
        node.log(rank, step=1, loss=1.0)
    node.cut_and_tick()
    assert set(node.cell("loss", 1)) == {(4, 5, 6)}


# ---- when rows leave -----------------------------------------------------------------------------


def test_nothing_leaves_between_cuts() -> None:
    node = NodeScenario(2)
    for rank in (0, 1):
        node.log(rank, step=0, loss=1.0)
    assert node.tick() == []
    assert node.fold.activity().to_forward
    assert len(node.cut_and_tick()) == 1
    assert not node.fold.activity().to_forward
    assert node.cut_and_tick() == []


def test_a_row_waits_for_one_cut_for_ranks_that_report_its_metrics_at_other_times() -> None:
    node = NodeScenario(8, connected=[4, 5])
    for rank in (4, 5):
        node.log(rank, step=0, loss=1.0)
    node.cut_and_tick()
    node.log(4, step=1, loss=1.0)
    assert contributions_of(node.cut_and_tick()) == []
    node.log(5, step=1, loss=1.0)
    node.cut_and_tick()
    assert set(node.cell("loss", 1)) == {(4, 5)}


def test_a_rank_that_comes_later_still_makes_a_further_contribution() -> None:
    node = NodeScenario(8, connected=[4, 5, 6])
    for rank in (4, 5, 6):
        node.log(rank, step=0, loss=1.0)
    node.cut_and_tick()
    for rank in (4, 5):
        node.log(rank, step=1, loss=1.0)
    node.cut_and_tick()
    node.cut_and_tick()
    node.log(6, step=1, loss=3.0)
    node.cut_and_tick()
    assert set(node.cell("loss", 1)) == {(4, 5), (6,)}
    assert node.cell("loss", 1)[6,] == 3.0


def test_a_rank_that_does_not_report_a_metric_is_not_waited_for() -> None:
    node = NodeScenario(8, connected=[4, 5, 6])
    for step in (0, 1):
        node.log(4, step=step, loss=1.0)
        node.log(5, step=step, loss=1.0)
        node.cut_and_tick()
        assert set(node.cell("loss", step)) == {(4, 5)}


@pytest.mark.parametrize("how", ["departs", "finishes"])
def test_a_rank_that_is_gone_is_not_waited_for(how: str) -> None:
    node = NodeScenario(8, connected=[4, 5, 6])
    for rank in (4, 5, 6):
        node.log(rank, step=0, loss=1.0)
    node.cut_and_tick()
    node.lose(6) if how == "departs" else node.finish(6)
    node.tick()
    for rank in (4, 5):
        node.log(rank, step=1, loss=1.0)
    node.cut_and_tick()
    assert set(node.cell("loss", 1)) == {(4, 5)}


@pytest.mark.parametrize("what", ["cut", "overflow", "finish", "end", "over"])
def test_what_forces_everything_waits_for_no_rank(what: str) -> None:
    node = NodeScenario(8, connected=[4, 5])
    for rank in (4, 5):
        node.log(rank, step=0, loss=1.0)
    node.cut_and_tick()
    node.log(4, step=1, loss=1.0)
    {
        "cut": lambda: node.cut(everything=True),
        "overflow": lambda: node.overflow(1),
        "finish": lambda: node.finish(4),
        "end": node.end,
        "over": node.say_over,
    }[what]()
    node.tick()
    assert node.cell("loss", 1) == {(4,): 1.0}
    assert node.fold.activity().open_rows == 0


def test_metrics_that_are_logged_at_times_only_go_with_those_ranks_that_logged_them() -> None:
    node = NodeScenario(8, connected=[4, 5, 6])
    for rank in (4, 5, 6):
        node.log(rank, step=0, a=1.0, b=2.0, c=3.0)
    node.cut_and_tick()
    node.log(4, step=1, a=1.0, b=1.0)
    node.log(5, step=1, a=1.0, c=1.0)
    node.log(6, step=1, a=1.0, c=1.0)
    node.cut_and_tick(everything=True)
    assert set(node.cell("a", 1)) == {(4, 5, 6)}
    assert set(node.cell("b", 1)) == {(4,)}
    assert set(node.cell("c", 1)) == {(5, 6)}


def test_a_recorded_rank_s_rows_are_forwarded_as_they_are_with_their_numbers_and_times() -> None:
    node = NodeScenario(2)
    node.log_rows(1, [0, 1], {"loss": [1.0, 1.0]}, times=[70, 80])
    node.log_rows(0, [1, 1], {"loss": [1.0, 2.0]}, times=[90, 95])
    node.cut_and_tick(everything=True)
    [contribution] = contributions_of(node.told)
    assert contribution.times_ns.tolist() == [70, 80]
    [rows] = [rows for _, part in parts_of(node.told) for rows in part.rows]
    assert (rows.times_ns.tolist(), rows.row_numbers.tolist()) == ([90, 95], [0, 1])


def test_the_rows_of_a_sole_reporter_keep_their_numbers() -> None:
    node = NodeScenario(8, connected=[4, 5])
    for step in range(3):
        node.log(5, step, other=1.0)
        node.log(5, step, loss=float(step))
        node.log(4, step, other=2.0)
    node.cut_and_tick(everything=True)
    [alone] = [one for one in contributions_of(node.told) if one.values is not None]
    assert alone.row_numbers is not None
    assert alone.row_numbers.tolist() == [0, 1, 2]


def test_a_value_too_many_at_one_step_is_late_for_the_aggregates_and_said_so() -> None:
    node = NodeScenario(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "OCCURRENCES_PER_STEP_MAX", 4)
        for _ in range(6):
            node.log(1, step=3, loss=1.0)
    node.cut_and_tick(everything=True)
    assert node.fold.books.late_by_rank == {1: 2}
    assert len(node.told_values) == 4
    assert [text for text in node.notices if "more than 4 times" in text]


# ---- any run at all ------------------------------------------------------------------------------

RANKS = (1, 4, 5, 9)
magnitudes = st.floats(-1e300, 1e300).filter(lambda x: x == 0 or abs(x) > 1e-140)
numbers = magnitudes | st.sampled_from([np.nan, np.inf, -np.inf, -0.0])
some_names = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, unique=True)


@st.composite
def logged(draw: st.DrawFn) -> tuple[int, list[int], dict[str, list[float]]]:
    steps = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
    if draw(st.booleans()):
        steps = sorted(set(steps))
    some = st.lists(numbers, min_size=len(steps), max_size=len(steps))
    return draw(st.sampled_from(RANKS)), steps, {name: draw(some) for name in draw(some_names)}


actions = st.one_of(
    logged(), logged(), logged(), st.sampled_from(["cut", "cut all", "tick", "flush", "finish", "attempt"])
)


@settings(max_examples=200, deadline=None)
@given(st.lists(actions, max_size=30), st.sampled_from(["", "5", "all"]))
def test_every_value_is_told_once_whatever_ranks_log_and_whenever_cuts_come(
    run: list[str | tuple[int, list[int], dict[str, list[float]]]], record: str
) -> None:
    node, expected = NodeScenario(12, connected=RANKS, record=record), Expected()
    for action in run:
        if not isinstance(action, str):
            rank, steps, rows = action
            expected.note(node.clients[rank].stream[1], rank, steps, rows)
            node.log_rows(rank, steps, rows)
        elif action in ("cut", "cut all"):
            node.cut_and_tick(everything=action == "cut all")
        elif action == "flush":
            node.flush(*RANKS)
        elif action == "finish":
            node.finish(RANKS[0])
        elif action == "attempt":
            node.join(RANKS[1], attempt=min(node.attempt + 1, 4))
        else:
            node.tick()
    node.cut_and_tick(everything=True)
    # No value is told twice: the scenario has seen to that.
    assert node.told_values == expected.values.keys()
    for contribution in contributions_of(node.told):
        expected.check(contribution, node.names)
    assert not node.fold.activity().open_rows
