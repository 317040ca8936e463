"""What a node's daemon tells of its ranks has at the root the effect that it has when the ranks tell it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.support.aggregation.replaying import assert_replays
from tests.support.aggregation.scenario import SECOND, Scenario
from tests.support.aggregation.tree import Tree
from tracker_daemon.aggregation.numbers.summary import summarize
from tracker_daemon.aggregation.values.contribution import Contribution
from tracker_daemon.wire.contributions import encode_contribution
from tracker_protocol.v1 import tracker_pb2 as pb


def learned(run: Tree) -> Tree:
    """All ranks of the run have reported ``loss``, each its number, at step 0."""
    for rank in range(run.world_size):
        run.log(rank, 0, loss=rank)
    run.forward()
    run.tick()
    assert run.steps() == [0]
    return run


# ---- cells ---------------------------------------------------------------------------------------


def test_nodes_summaries_and_single_ranks_make_one_cell() -> None:
    run = learned(Tree([[0, 1, 2], [3, 4]], record="4"))
    row = run.row(0)
    assert row == {
        "loss": 0.0,
        "loss/mean": 2.0,
        "loss/min": 0.0,
        "loss/max": 4.0,
        "loss/std": pytest.approx(math.sqrt(2), rel=1e-12),
        "loss/rank4": 4.0,
    }


def test_a_node_may_contribute_to_a_cell_more_than_once() -> None:
    run = learned(Tree([[0, 1, 2, 3, 4]]))
    for ranks in ((1, 2), (0,), (3, 4)):
        for rank in ranks:
            run.log(rank, 1, loss=rank)
        run.forward()
        run.tick()
    assert run.row(1)["loss/mean"] == 2.0
    assert "loss/count" not in run.row(1)
    assert_replays(run)


def test_a_partial_cell_of_summaries_carries_its_count() -> None:
    run = learned(Tree([[0, 1, 2], [3, 4, 5]]))
    for rank in (1, 2, 3):
        run.log(rank, 1, loss=rank)
    run.forward()
    run.tick()
    assert run.steps() == [0]
    run.wait(30)
    assert run.row(1) == {
        "loss/mean": 2.0,
        "loss/min": 1.0,
        "loss/max": 3.0,
        "loss/std": pytest.approx(math.sqrt(2 / 3), rel=1e-12),
        "loss/count": 3.0,
    }


def test_the_primarys_time_is_the_records_though_a_summary_came_first() -> None:
    run = learned(Tree([[0, 1], [2, 3]]))
    for rank, time_s in ((2, 7), (3, 8), (0, 9), (1, 10)):
        run.log_rows(rank, [1], {"loss": [rank]}, times=[time_s * SECOND])
        if rank == 3:
            run.forward()
    run.forward()
    [record] = run.tick()
    assert record.time_ns == 9 * SECOND


def test_a_sole_reporters_values_are_recorded_plainly_though_others_come_in_summaries() -> None:
    run = learned(Tree([[0, 1, 2], [3, 4, 5]]))
    run.log(4, 1, gpu=1.5)
    run.flush(*range(6))
    run.wait(6)
    run.flush(*range(6))
    run.tick()
    assert run.row(1) == {"gpu": 1.5}
    for rank in range(3, 6):
        run.log(rank, 2, gpu=rank)
    run.forward()
    run.tick()
    assert run.row(2)["gpu"] == 4.0
    assert run.row(2)["gpu/mean"] == 4.0


def test_values_that_are_told_twice_of_a_rank_are_rejected_once_and_the_first_kept() -> None:
    run = learned(Tree([[0, 1, 2], [3, 4]]))
    for rank in (1, 2):
        run.log(rank, 1, loss=rank)
    run.forward()
    node = run.nodes[0]
    for ranks, values in ((1,), [[[9.0, 8.0]]]), ((1, 2), [[[9.0, 8.0], [9.0, 7.0]]]):
        node.body.contributions.append(
            encode_contribution(contribution(node.key("loss"), node.key("acc"), ranks, values))
        )
    run.pass_up(node)
    # Of the second, no cell is without rank 1; of a summary nothing can be taken out.
    assert run.fold.books.rejected == 1 + 4
    for rank in (0, 3, 4):
        run.log(rank, 1, loss=rank)
    run.forward()
    run.wait(31)
    assert run.row(1)["loss/mean"] == 2.0
    assert run.row(1)["acc"] == 8.0
    assert sum("had sent before" in notice for notice in run.notices) == 1
    assert_replays(run)


def contribution(
    loss: int, acc: int, ranks: tuple[int, ...], values: list[list[list[float]]]
) -> Contribution:
    array, who = np.array(values), np.array(ranks)
    alone = len(ranks) == 1
    zero = np.zeros(1, np.int64)
    return Contribution(
        1,
        who,
        (loss, acc),
        zero + 1,
        zero,
        zero,
        zero + 1,
        array[:, 0] if alone else None,
        None if alone else summarize(array, np.ones(array.shape, np.bool_), who),
    )


# ---- late ----------------------------------------------------------------------------------------


def test_a_late_contribution_is_late_for_each_of_its_ranks_and_in_no_aggregate() -> None:
    run = learned(Tree([[0, 1, 2], [3, 4]], record="4"))
    run.log(0, 1, loss=5)
    run.forward()
    run.wait(31)
    for rank in range(1, 5):
        run.log(rank, 1, loss=rank)
    run.forward()
    run.tick()
    assert run.fold.books.late_by_rank == {1: 1, 2: 1, 3: 1, 4: 1}
    assert run.row(1)["loss/mean"] == 5.0
    assert run.row(1)["loss/rank4"] == 4.0
    assert sum("arrived after their cells had closed" in notice for notice in run.notices) == 4


def test_a_contribution_to_open_and_closed_cells_is_in_time_for_the_open_ones() -> None:
    run = learned(Tree([[0, 1, 2]]))
    run.log(0, 1, loss=5)
    run.forward()
    run.wait(31)
    for rank in (1, 2):
        run.log_rows(rank, [1, 2], {"loss": [rank, rank]})
    run.log(0, 2, loss=0)
    run.forward()
    run.tick()
    assert run.fold.books.late_by_rank == {1: 1, 2: 1}
    assert run.row(2)["loss/mean"] == 1.0


def test_what_comes_for_an_attempt_that_is_over_is_late_and_the_primarys_own_recorded() -> None:
    run = learned(Tree([[0, 1, 2]]))
    for rank in range(3):
        run.log(rank, 1, loss=rank + 7)
    for rank in range(3):
        run.join(rank, attempt=2)
    run.forward()
    run.tick()
    assert run.fold.books.late_by_rank == {0: 1, 1: 1, 2: 1}
    assert run.row(1, attempt=1) == {"loss": 7.0}


def test_what_comes_for_an_attempt_that_is_forgotten_is_late_for_its_ranks() -> None:
    run = learned(Tree([[0, 1, 2]]))
    for rank in range(3):
        run.log_rows(rank, [1, 2], {"loss": [1, 1]})
    for attempt in range(2, 8):
        run.join(0, attempt=attempt)
    run.forward()
    run.tick()
    assert run.fold.books.late_by_rank == {0: 2, 1: 2, 2: 2}
    assert run.steps() == [0]


# ---- who is waited for ---------------------------------------------------------------------------


def test_a_metric_is_learned_once_progress_tells_that_all_ranks_have_flushed() -> None:
    run = Tree([[0, 1, 2], [3, 4]])
    for rank in (1, 2, 3):
        run.log(rank, 0, loss=rank)
    run.forward()
    run.wait(6)
    run.flush(0, 1, 2, 3)
    run.tick()
    assert run.fold.activity().learning
    run.flush(4)
    run.tick()
    assert not run.fold.activity().learning
    assert run.row(0)["loss/mean"] == 2.0


def test_a_lagging_rank_that_comes_in_one_summary_with_others_has_caught_up() -> None:
    run = learned(Tree([[1, 2], [0]], lagging_after=2))
    for rank in (0, 2):
        run.log_rows(rank, [1, 2], {"loss": [rank, rank]})
    run.forward()
    run.wait(31)
    assert run.fold.attempt.lagging == {1}
    run.log(1, 3, loss=1)
    run.log(2, 3, loss=2)
    run.forward()
    run.tick()
    assert run.fold.attempt.lagging == set()
    assert run.notices[-1] == "rank 1 has caught up and is waited for again"
    assert run.rows(3) == []


def test_a_nodes_daemon_is_no_member_and_opens_no_attempt() -> None:
    run = learned(Tree([[0, 1], [2, 3]]))
    run.happen("hello", b"n" * 16, -1, 99, 7, ("loss",))
    run.happen("flushed", b"n" * 16)
    summary = run.fold.summary()
    assert (summary.attempt, summary.world_size) == (1, 4)
    assert summary.dropped_points.keys() == {0, 1, 2, 3}
    assert run.fold.names_of(b"n" * 16) == ["loss"]
    assert run.fold.attempt.membership.seen == {0, 1, 2, 3}


def test_progress_tells_where_a_rank_goes_on_and_nothing_of_one_that_has_logged_nothing() -> None:
    run = Tree([[0, 1], [2, 3]])
    run.log_rows(1, [4, 9, 3], {"loss": [1, 1, 1]})
    run.flush(1, 2)
    run.tick()
    assert run.fold.next_automatic_step(1, 1) == 4
    assert run.fold.next_automatic_step(2, 1) == 0
    assert run.fold.summary().last_step == {1: 3}


# ---- what is no value of a metric ----------------------------------------------------------------


def say_all(run: Scenario) -> Scenario:
    for rank in range(3):
        run.configure(rank, json.dumps({"lr": 0.1, "rank": rank}))
        run.log(rank, 0, loss=rank)
        run.say(rank, 0, note=f"text {rank}")
        run.log_own(rank, 1, {"grad/p50": rank + 0.5})
        run.give(rank, "table", "samples", step=1)
        run.drop(rank, 2)
    if isinstance(run, Tree):
        run.forward()
    run.tick()
    run.finish(0, 1, 2, code=3)
    if isinstance(run, Tree):
        run.forward()
    run.wait(31)
    return run


def test_texts_own_numbers_items_configurations_and_ends_are_those_of_the_ranks() -> None:
    flat = say_all(Scenario(3, record="1", items="2"))
    tree = say_all(Tree([[0, 1], [2]], record="1", items="2"))
    assert tree.row(0) == {**flat.row(0), "loss/std": pytest.approx(flat.row(0)["loss/std"])}
    assert tree.row(1) == flat.row(1)
    assert {"note", "note/rank1"} <= tree.row(0).keys()
    assert tree.items == flat.items
    assert tree.configs == flat.configs
    assert tree.config_changes == flat.config_changes
    assert tree.fold.summary().exit_codes == {0: 3, 1: 3, 2: 3}
    assert tree.fold.over()
    assert tree.fold.books.dropped_points == flat.fold.books.dropped_points
    assert tree.fold.books.received == flat.fold.books.received
    assert_replays(tree)


def test_a_part_of_an_unknown_stream_is_rejected_with_one_notice() -> None:
    run = Tree([[0, 1]])
    node = run.nodes[0]
    for step in (1, 2):
        body = pb.BatchBody(items=[pb.Item(kind="table", key="t", document="{}")], dropped_points=5)
        text = body.texts.add(keys=[0], values=["x"])
        text.steps = text.times = text.rows = np.array([step], "<i8").tobytes()
        node.add_part(b"nobody here at a", body, ["note"])
        run.pass_up(node)
    run.tick()
    assert (run.fold.books.rejected, run.fold.books.items_left_out) == (2, 2)
    assert run.records == []
    assert len(run.notices) == 1


def test_a_part_has_the_rows_of_a_recorded_rank_as_they_are() -> None:
    run = learned(Tree([[0, 1], [2]]))
    client = run.clients[0]
    client.add_rows([1], {"loss": [4.0]}, [7], False)
    run.send(0)
    run.log(1, 1, loss=6.0)
    run.log(2, 1, loss=8.0)
    run.forward(flushed=[0])
    run.tick()
    assert run.row(1)["loss"] == 4
    assert run.row(1)["loss/mean"] == 6


@pytest.mark.parametrize("world_size", [3, 0])
def test_a_contribution_of_a_rank_that_cannot_be_is_rejected(world_size: int) -> None:
    run = learned(Tree([[0, 1], [2]]))
    run.fold.attempt.membership.world_size = world_size
    node, ranks, one = run.nodes[0], np.array([1, 999_999]), np.array([0])
    summary = summarize(np.ones((1, 2, 1)), np.ones((1, 2, 1), np.bool_), ranks)
    told = Contribution(1, ranks, (node.key("loss"),), one + 5, one, one, one + 5, None, summary)
    node.body.contributions.append(encode_contribution(told))
    run.pass_up(node)
    run.tick()
    assert run.fold.books.rejected == 2
    assert run.steps() == [0]


def test_ranks_that_log_different_metrics_at_a_step_of_their_own_count_are_told_so() -> None:
    run = Tree([[0, 1], [2]])
    run.nodes[0].add_step_keys(0, ["a", "b"], [0, 1])
    run.nodes[0].add_step_keys(1, ["b", "a"], [0, 1])
    run.pass_up(run.nodes[0])
    run.tick()
    assert run.notices == []
    run.nodes[1].add_step_keys(2, ["a"], [1])
    run.nodes[1].body.notices.append("the node's disk is nearly full")
    run.pass_up(run.nodes[1])
    run.tick()
    assert [notice[:30] for notice in run.notices] == [
        "at automatic step 1 rank 2 log",
        "the node's disk is nearly full",
    ]


def test_a_rank_cannot_speak_for_others() -> None:
    run = Scenario(2)
    array = np.array([[[1.0, 2.0]]])
    body = pb.BatchBody(names=["loss", "acc"])
    body.contributions.append(encode_contribution(contribution(0, 1, (1,), array.tolist())))
    run.happen("batch", run.clients[0].stream, body.SerializeToString())
    run.tick()
    assert run.fold.books.rejected == 2
    assert run.fold.attempt.open_points() == 0


# ---- memory, and what is saved -------------------------------------------------------------------


def test_ranks_that_come_in_summaries_take_no_room_for_values() -> None:
    flat, tree = Scenario(256), Tree([list(range(128)), list(range(128, 256))])
    for rank in range(255):
        for run in (flat, tree):
            run.log(rank, 0, {f"m{i}": 1.0 for i in range(20)})
    tree.forward()
    [panel] = tree.fold.attempt.panels
    assert panel.values.shape[1] < 8
    assert tree.fold.activity().open_bytes < flat.fold.activity().open_bytes / 5
    assert [panel.accumulators for panel in flat.fold.attempt.panels] == [None]


def test_rows_that_grow_while_summaries_are_open_keep_them() -> None:
    run = learned(Tree([[0, 1, 2]]))
    for rank in (1, 2):
        run.log_rows(rank, range(1, 100), {"loss": [rank] * 99})
        run.forward()
    run.tick()
    run.log_rows(0, range(1, 100), {"loss": [0] * 99})
    run.forward()
    run.tick()
    assert [run.row(step)["loss/mean"] for step in range(1, 100)] == [1.0] * 99
    assert_replays(run)
