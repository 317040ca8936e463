"""What a node's daemon forwards beside values: what ranks said themselves, their ends, and in what sizes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.aggregation.node_scenario import (
    NodeScenario,
    contributions_of,
    finished_in,
    flushed_in,
    news_of,
    parts_of,
)
from tracker_daemon.aggregation.node.dictionary import NodeDictionary
from tracker_daemon.aggregation.values.batch import DecodedBatch, Exiting
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

# ---- parts ---------------------------------------------------------------------------------------


def parts_by_rank(node: NodeScenario, told: list[DecodedBatch]) -> dict[int, list[DecodedBatch]]:
    ranks = {client.stream: rank for rank, client in node.clients.items()}
    found: dict[int, list[DecodedBatch]] = {}
    for stream, part in parts_of(told):
        found.setdefault(ranks[stream], []).append(part)
    return found


def texts_of(node: NodeScenario, part: DecodedBatch) -> list[tuple[str, str]]:
    return [
        (node.names[key], text)
        for block in part.texts
        for row in block.values
        for key, text in zip(block.keys, row, strict=True)
    ]


def test_texts_go_as_they_were_said_of_recorded_ranks_alone() -> None:
    node = NodeScenario(4, record="2")
    node.log(1, step=0, unrelated=1.0)
    for rank in range(4):
        node.say(rank, 0, note=f"a{rank}")
        node.say(rank, 1, other=f"b{rank}", note=f"c{rank}")
    parts = parts_by_rank(node, node.cut_and_tick())
    assert parts.keys() == {0, 2}
    assert texts_of(node, parts[2][0]) == [("note", "a2"), ("other", "b2"), ("note", "c2")]
    assert node.fold.books.folded == node.fold.books.received


def test_statistics_of_a_rank_s_own_go_where_its_items_do() -> None:
    node = NodeScenario(4, items="3", record="1")
    for rank in range(4):
        node.log_own(rank, 5, {"norm": rank + 0.5})
    told = node.cut_and_tick()
    parts = parts_by_rank(node, told)
    assert parts.keys() == {0, 3}
    (block,) = parts[3][0].rows
    assert block.own
    assert ([node.names[key] for key in block.keys], block.values.tolist()) == (["norm"], [[3.5]])
    assert contributions_of(told) == []


def test_configurations_go_of_every_rank_in_order() -> None:
    node = NodeScenario(4, connected=[2, 3])
    for rank in (2, 3):
        node.configure(rank, '{"lr": 1}')
        node.configure(rank, '{"lr": 2}')
    parts = parts_by_rank(node, node.cut_and_tick())
    assert {rank: part.config for rank, (part,) in parts.items()} == dict.fromkeys(
        (2, 3), ('{"lr": 1}', '{"lr": 2}')
    )


def test_what_a_client_has_dropped_goes_with_its_rank_and_is_told_as_it_grows() -> None:
    node = NodeScenario(4, connected=[2])
    node.drop(2, 10)
    node.drop(2, 10)
    (part,) = parts_by_rank(node, node.cut_and_tick())[2]
    assert part.dropped_points == 10
    node.drop(2, 10)
    assert node.cut_and_tick() == []
    assert node.fold.summary().dropped_points == {2: 10}
    assert node.fold.books.dropped_points == 10


def test_values_lost_in_gaps_go_as_the_node_s_own_count() -> None:
    node = NodeScenario(4)
    node.gap(7)
    assert node.fold.activity().to_forward
    assert [batch.dropped_points for batch in node.cut_and_tick()] == [7]
    node.gap(5)
    node.gap(1)
    assert [batch.dropped_points for batch in node.cut_and_tick()] == [13]
    assert node.cut_and_tick() == []


def test_items_go_of_ranks_whose_items_are_recorded() -> None:
    node = NodeScenario(4, items="2")
    for rank in range(4):
        node.give(rank, "table", "samples", step=4, document='{"rows": 3}', automatic_step=True)
    parts = parts_by_rank(node, node.cut_and_tick())
    assert parts.keys() == {0, 2}
    (item,) = parts[2][0].items
    assert (item.kind, item.key, item.step, item.document) == ("table", "samples", 4, '{"rows": 3}')
    assert item.automatic_step
    assert (node.fold.books.items, node.fold.books.items_left_out) == (2, 2)


def test_an_item_with_contents_goes_alone_and_names_them() -> None:
    node = NodeScenario(2)
    contents = [pb.Content(sha256=bytes([i]) * 32, size_bytes=i, path=f"f{i}") for i in (1, 2)]
    node.log(0, step=0, loss=1.0)
    node.give(0, "artifact", "model", contents=contents)
    node.give(0, "artifact", "data", contents=contents[:1])
    node.give(0, "table", "samples")
    node.cut_and_tick(everything=True)
    alone = [forwarded for forwarded in node.forwarded if forwarded.contents]
    assert [forwarded.contents for forwarded in alone] == [
        {"01" * 32, "02" * 32},
        {"01" * 32},
    ]
    for forwarded, key in zip(alone, ["model", "data"], strict=True):
        body = pb.BatchBody.FromString(forwarded.body)
        (part,) = body.parts
        assert [item.key for item in part.body.items] == [key]
        assert body == pb.BatchBody(parts=[part])
    others = [item.key for _, part in parts_of(node.told) for item in part.items if not item.contents]
    assert others == ["samples"]


def test_an_item_with_contents_is_forwarded_in_its_own_tick_and_another_item_at_the_next_cut() -> None:
    node = NodeScenario(2)
    node.tick()
    node.give(0, "table", "samples")
    assert node.tick() == []
    node.give(0, "artifact", "model", contents=[pb.Content(sha256=bytes(32), size_bytes=1, path="f")])
    assert [item.key for _, part in parts_of(node.tick()) for item in part.items] == ["model", "samples"]
    assert node.cut_and_tick() == []


# ---- ends ----------------------------------------------------------------------------------------


def test_a_finish_comes_after_all_that_the_rank_logged() -> None:
    node = NodeScenario(8, connected=[4, 5])
    for rank in (4, 5):
        node.log(rank, step=0, loss=1.0)
    node.log(4, step=1, loss=1.0)
    node.configure(4, "{}")
    node.finish(4, code=3)
    *before, last = node.tick()
    assert finished_in([last]) == {node.clients[4].stream: 3}
    assert contributions_of([last]) == []
    assert (4,) in {tuple(c.ranks.tolist()) for c in contributions_of(before)}
    assert finished_in(before) == {}
    assert node.fold.summary().exit_codes == {4: 3}
    assert node.fold.summary().gone == {4: "finished"}
    assert not node.fold.over()


def test_the_job_s_end_is_that_of_the_ranks_that_it_is_known_of_and_the_others_are_lost() -> None:
    node = NodeScenario(8, connected=[4, 5, 6])
    node.finish(5)
    node.tick()
    node.log(4, step=0, loss=1.0)
    node.happen("end", 9, [4])
    told = node.tick()
    ends = {s: (p.finish, p.exiting is not None, p.lost) for s, p in parts_of(told) if p.ends or p.lost}
    assert ends == {node.clients[4].stream: (9, True, False), node.clients[6].stream: (None, False, True)}
    assert contributions_of(told)
    node.happen("end", 9, [4])
    assert node.tick() == []


def exits(node: NodeScenario, rank: int) -> None:
    node.clients[rank].body.exiting.SetInParent()
    node.send(rank)


@pytest.mark.parametrize("code", [0, 7, None])
def test_the_end_of_a_rank_that_exits_is_forwarded_with_its_exit_status(code: int | None) -> None:
    node = NodeScenario(8, connected=[4, 5])
    node.log(4, step=0, loss=1.0)
    exits(node, 4)
    told = node.tick()
    assert contributions_of(told)
    assert not any(part.ends for _, part in parts_of(told))
    node.happen("exit_status", 4, code)
    ((stream, end),) = parts_of(node.tick())
    assert (stream, end.finish, end.exiting) == (node.clients[4].stream, code, Exiting())


def test_a_restart_of_the_node_waits_for_no_exit_status() -> None:
    node = NodeScenario(8, connected=[4])
    exits(node, 4)
    node.tick()
    node.happen("restart_timers")
    ((_, end),) = parts_of(node.tick())
    assert (end.finish, end.exiting) == (None, Exiting())


def test_a_rank_whose_process_has_vanished_is_forwarded_as_lost_at_once() -> None:
    node = NodeScenario(8, connected=[4, 5])
    node.log(4, step=0, loss=1.0)
    node.happen("vanish", 4, 0)
    told = node.tick()
    assert contributions_of(told)
    assert [(stream, part.lost) for stream, part in parts_of(told)] == [(node.clients[4].stream, True)]


def test_the_run_is_over_when_the_root_says_so_and_goes_on_with_a_later_attempt() -> None:
    node = NodeScenario(2)
    node.say_over("FAILED", "rank 7 lost contact")
    node.tick()
    assert node.fold.over()
    assert node.fold.outcome == ("FAILED", "rank 7 lost contact")
    node.join(0)
    assert node.fold.over()
    node.join(0, attempt=2)
    assert not node.fold.over()
    assert node.fold.outcome is None
    assert node.fold.summary().attempt == 2


def test_what_comes_after_the_end_is_forwarded_at_once() -> None:
    node = NodeScenario(2)
    node.say_over()
    node.tick()
    node.log(1, step=3, loss=1.0)
    assert contributions_of(node.tick())
    assert not node.fold.activity().to_forward


# ---- attempts ------------------------------------------------------------------------------------


def test_what_an_older_attempt_left_goes_at_the_next_cut_under_its_number() -> None:
    node = NodeScenario(8, connected=[4, 5])
    for rank in (4, 5):
        node.log(rank, step=0, loss=1.0)
    node.cut_and_tick()
    node.log(4, step=1, loss=2.0)
    straggler = node.clients[5]
    node.join(5, attempt=2)
    node.log(5, step=0, loss=3.0)
    told = contributions_of(node.cut_and_tick())
    assert [(c.attempt, c.ranks.tolist(), c.values.tolist()) for c in told] == [
        (1, [4], [[2.0]]),
        (2, [5], [[3.0]]),
    ]
    node.log_rows(5, [1], {"loss": [4.0]}, client=straggler)
    (late,) = contributions_of(node.cut_and_tick())
    assert (late.attempt, late.steps.tolist()) == (1, [1])


def test_values_of_an_attempt_that_is_long_over_are_late_and_counted() -> None:
    node = NodeScenario(8, connected=[4])
    first = node.clients[4]
    for attempt in range(2, 8):
        node.join(4, attempt=attempt)
        node.cut_and_tick()
    node.log_rows(4, [0], {"loss": [1.0], "lr": [1.0]}, client=first)
    assert contributions_of(node.cut_and_tick()) == []
    assert node.fold.books.late == 2


def test_an_attempt_is_not_forgotten_before_its_values_are_told() -> None:
    node = NodeScenario(8, connected=[4])
    node.log(4, step=0, loss=1.0)
    for attempt in range(2, 8):
        node.join(4, attempt=attempt)
        node.tick()
    assert [c.attempt for c in contributions_of(node.cut_and_tick())] == [1]


def test_the_world_size_is_what_an_attempt_s_ranks_state() -> None:
    node = NodeScenario(8, connected=[4])
    node.join(4, attempt=2, world_size=6)
    assert node.fold.activity().world_size == 6
    node.join(4, attempt=3, world_size=0)
    assert node.fold.summary().world_size == 6


# ---- steps that ranks count themselves -----------------------------------------------------------


def step_keys(node: NodeScenario, told: list[DecodedBatch]) -> list[tuple[int, list[str], list[int]]]:
    return [
        (keys.rank, [node.names[key] for key in keys.keys], keys.steps.tolist())
        for news in news_of(told)
        for keys in news.automatic_keys
    ]


def test_the_metrics_of_automatic_steps_are_told_once_for_each_step() -> None:
    node = NodeScenario(8, connected=[4, 5])
    node.log_rows(4, [0, 1], {"a": [1, 1], "b": [1, 1]}, automatic=True)
    node.log_rows(5, [0, 1, 2], {"b": [1] * 3, "a": [1] * 3}, automatic=True)
    node.log_rows(4, [2, 3], {"a": [1, 1], "b": [1, 1]}, automatic=True)
    node.log_rows(4, [4], {"a": [1]}, automatic=True)
    told = step_keys(node, node.cut_and_tick(everything=True))
    assert told == [(4, ["a", "b"], [0, 1]), (5, ["b", "a"], [2]), (4, ["a", "b"], [3]), (4, ["a"], [4])]
    assert node.cut_and_tick() == []
    assert node.notices == []


def test_ranks_whose_automatic_steps_differ_are_warned_of_here_and_at_the_root() -> None:
    node = NodeScenario(8, connected=[4, 5])
    node.log_rows(4, [0, 1], {"a": [1, 1]}, automatic=True)
    node.log_rows(5, [0, 1], {"b": [1, 1]}, automatic=True)
    node.tick()
    (notice,) = node.notices
    assert "at automatic step 0 rank 5 logged ['b']" in notice
    told = node.cut_and_tick()
    assert [news.notices for news in news_of(told)] == [(notice,)]
    assert node.cut_and_tick() == []


def test_a_notice_to_the_root_is_bounded() -> None:
    node = NodeScenario(2)
    node.fold.notices.append("é" * 10_000)
    node.cut()
    (told,) = node.tick()
    assert told.forwarded.notices == ("é" * limits.TEXT_VALUE_MAX_CHARACTERS,)


def test_automatic_steps_go_on_from_the_furthest_rank_of_the_attempt_before() -> None:
    node = NodeScenario(8, connected=[4, 5])
    node.log_rows(4, [0, 1, 2], {"a": [1] * 3}, automatic=True)
    node.log_rows(5, [0], {"a": [1]}, automatic=True)
    assert node.fold.next_automatic_step(5, 1) == 1
    assert node.fold.next_automatic_step(5, 2) == 3
    node.join(5, attempt=2)
    assert node.fold.next_automatic_step(5, 2) == 3
    assert node.fold.next_automatic_step(4, 2) == 3


# ---- names and sizes -----------------------------------------------------------------------------


def test_a_name_is_told_with_the_first_of_what_uses_it() -> None:
    node = NodeScenario(8, connected=[4, 5])
    for rank in (4, 5):
        node.log(rank, step=0, loss=1.0)
    (first,) = node.cut_and_tick()
    assert first.names == ("loss",)
    node.log(4, step=1, loss=1.0)
    node.log(4, step=1, lr=1.0)
    node.log(5, step=1, accuracy=1.0)
    (second,) = node.cut_and_tick(everything=True)
    assert second.names == ("lr", "accuracy")
    assert node.fold.dictionary() == ["loss", "lr", "accuracy"]
    assert node.fold.names_of(node.clients[5].stream) == ["loss", "accuracy"]
    assert list(node.fold.names_of(b"unknown")) == []


@pytest.mark.parametrize("ranks", [[4], [4, 5, 7]])
@pytest.mark.parametrize(("metrics", "rows"), [(limits.METRICS_PER_ROW_MAX, 2), (3, 20_000), (1, 1)])
def test_what_is_large_is_divided_into_bodies_below_their_size(
    ranks: list[int], metrics: int, rows: int
) -> None:
    node = NodeScenario(8, connected=ranks)
    names = [f"layers/{i:05}/weights/norm" for i in range(metrics)]
    block = pb.Block(
        keys=range(metrics),
        steps=np.arange(rows).astype("<i8").tobytes(),
        times=np.zeros(rows, "<i8").tobytes(),
        rows=np.arange(rows).astype("<i8").tobytes(),
        values=np.arange(rows * metrics, dtype="<f8").tobytes(),
        automatic_steps=True,
    )
    for rank in ranks:
        node.clients[rank].body = pb.BatchBody(names=names, blocks=[block])
        node.send(rank)
    told = node.cut_and_tick()
    assert len(node.told_values) == metrics * rows * len(ranks)
    # Each but the last is used for the most part.
    sizes = [len(forwarded.body) for forwarded in node.forwarded]
    assert len(told) == len(sizes) <= 2 + 2 * sum(sizes) / limits.BATCH_TARGET_BYTES
    assert node.names == names


def test_long_names_are_told_in_bodies_below_their_size() -> None:
    node = NodeScenario(2)
    names = [f"{i:04}" + "x" * (limits.METRIC_NAME_MAX_BYTES - 4) for i in range(1_000)]
    node.log(0, 0, dict.fromkeys(names, 1.0))
    node.cut_and_tick(everything=True)
    assert node.names == names
    assert len(node.told_values) == len(names)


def test_a_node_of_too_many_metrics_goes_on_with_those_that_have_a_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "METRICS_PER_RUN_MAX", 2)
    node = NodeScenario(8, connected=[4, 5], record="5")
    node.log(4, step=0, a=1.0, b=2.0)
    node.log(5, step=0, b=2.0, c=3.0)
    node.say(5, 0, d="x")
    node.cut_and_tick(everything=True)
    assert sorted(node.names) == ["a", "b"]
    assert node.cell("b", 0) == {(4,): 2.0, (5,): 2.0}
    assert node.fold.books.rejected == 2
    assert [text for text in node.notices if "more than 2 metrics" in text]


def test_many_ranks_progress_fits_bodies_of_their_size() -> None:
    node = NodeScenario(0, connected=[])
    ranks = range(0, limits.WORLD_SIZE_MAX, 60)
    for rank in ranks:
        stream = rank.to_bytes(16, "little")
        node.fold.hello(stream, rank, 0, 1, (), 0)
        node.fold.flushed(stream, 0)
    told = node.cut_and_tick()
    assert len(told) > 1
    assert flushed_in(told) == list(ranks)


# ---- the dictionary ------------------------------------------------------------------------------


def test_a_node_names_no_more_metrics_than_fit_its_hello() -> None:
    name = "{:0512d}".format
    dictionary = NodeDictionary(map(name, range(3000)), map(name, range(3000, 6000)))
    admitted = [n for n in range(5000, 7000) if dictionary.admit(name(n))]
    assert admitted[:1000] == list(range(5000, 6000))
    assert 6000 < len(admitted) + 5000 < 7000
    everything = pb.Hello(names=map(name, range(admitted[-1] + 1)))
    assert everything.ByteSize() < limits.RECEIVE_MAX_BYTES
    again = NodeDictionary(map(name, admitted))
    assert again.admit(name(0))
