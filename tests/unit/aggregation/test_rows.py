"""Rows, cells and their order: held to the executable rules, whatever the batches, ticks and nodes."""

from __future__ import annotations

import csv
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.aggregation.replaying import assert_replays
from tests.support.aggregation.scenario import Client, Record, Scenario, decoded
from tests.support.aggregation.tree import Tree
from tests.support.rows_oracle import Call, check_csv
from tests.unit.aggregation.test_tree_of_folds import TreeOfFolds

METRICS = ["loss", "acc", "lr", "val", "a/b"]
Calls = list[tuple[int, dict[str, float]]]


def write_csv(path: Path, records: list[Record]) -> None:
    columns = dict.fromkeys(column for record in records for column in record.cells)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", *columns])
        writer.writeheader()
        writer.writerows({"step": record.step, **record.cells} for record in records)


class Job:
    """What the ranks of a run log. Each rank's first call has all its metrics, so that all are learned.

    Where steps go back, all ranks log the same metrics at the same steps: others would be late.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        size = random.choice([1, 2, 3, 4])
        self.goes_back = random.random() < 0.4
        first = dict.fromkeys(METRICS[: random.choice([1, 2, 5])], 1.0)
        common = [(-1, first), *self._calls(list(first))]
        self.calls: dict[int, Calls] = {}
        for rank in range(size):
            if self.goes_back:
                self.calls[rank] = [(step, {name: self._value() for name in row}) for step, row in common]
                continue
            mine = [metric for metric in first if random.random() < 0.8] or ["loss"]
            self.calls[rank] = [(-1, dict.fromkeys(mine, float(rank))), *self._calls(mine)]

    def _calls(self, metrics: list[str]) -> Calls:
        step, calls = 0, []
        for _ in range(self.random.randint(0, 12)):
            step += self.random.choice([1, 0, -1, 2] if self.goes_back else [1, 1, 2, 0])
            row = {metric: self._value() for metric in metrics if self.random.random() < 0.7}
            if row:
                calls.append((step, row))
        return calls

    def _value(self) -> float:
        return round(self.random.uniform(-5, 5), 3)

    def play(self, run: Scenario) -> None:
        """Log it all, in batches of some calls, with pauses; the first calls come first."""
        left = {rank: list(calls) for rank, calls in self.calls.items()}
        for rank in self.random.sample(sorted(left), len(left)):
            self._send(run, rank, left, 1)
        while any(left.values()):
            self._send(run, self.random.choice([rank for rank in left if left[rank]]), left, 4)
        for rank in self.random.sample(sorted(left), len(left)):
            run.finish(rank)
            self._pause(run)

    def _send(self, run: Scenario, rank: int, left: dict[int, Calls], most: int) -> None:
        client = run.clients[rank]
        taken, left[rank] = _divided(left[rank], self.random.randint(1, most))
        for step, row in taken:
            client.add_rows([step], {name: [value] for name, value in row.items()}, [run.now_ns], False)
        # A row that the next call joins is not flushed: the call would be of a row that is emitted.
        _, newest, names = client.newest
        joins = bool(left[rank]) and left[rank][0][0] == newest and not names & left[rank][0][1].keys()
        send(run, rank, client, flushed=not joins and self.random.random() < 0.7)
        self._pause(run)

    def _pause(self, run: Scenario) -> None:
        if isinstance(run, TreeOfFolds) and self.random.random() < 0.4:
            run.cut(everything=self.random.random() < 0.3)
        if self.random.random() < 0.5:
            run.tick()
        if not self.goes_back and self.random.random() < 0.2:
            run.wait(self.random.choice([0.2, 0.6, 2.0]))


def _divided(calls: Calls, count: int) -> tuple[Calls, Calls]:
    return calls[:count], calls[count:]


def send(run: Scenario, rank: int, client: Client, *, flushed: bool) -> None:
    if isinstance(run, TreeOfFolds):
        node = run.node_of[rank]
        batch = decoded(client.take(flushed=flushed), len(node.names_of(client.stream)))
        node.batch(client.stream, batch, run.now_ns)
    else:
        run.happen("batch", client.stream, client.take(flushed=flushed))


def assert_right(job: Job, run: Scenario, directory: Path) -> None:
    path = directory / "metrics.csv"
    write_csv(path, run.records)
    calls = {rank: [Call(row, step) for step, row in calls] for rank, calls in job.calls.items()}
    assert check_csv(path, calls) == []
    assert run.fold.attempt.open_points() == 0


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_rows_are_whole_and_in_order_and_aggregates_complete(
    tmp_path_factory: pytest.TempPathFactory, random: Random
) -> None:
    job = Job(random)
    run = Scenario(len(job.calls))
    job.play(run)
    run.tick()
    assert_right(job, run, tmp_path_factory.mktemp("run"))
    assert_replays(run)


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_rows_that_come_through_nodes_are_too(
    tmp_path_factory: pytest.TempPathFactory, random: Random
) -> None:
    job = Job(random)
    of = {rank: random.randint(0, 1) for rank in job.calls}
    nodes = [[rank for rank in of if of[rank] == node] for node in (0, 1)]
    run = TreeOfFolds([ranks for ranks in nodes if ranks])
    job.play(run)
    run.cut(everything=True)
    run.tick()
    run.cut(everything=True)
    run.tick()
    assert_right(job, run, tmp_path_factory.mktemp("run"))


# ---- when rows are emitted -----------------------------------------------------------------------


def test_a_metric_that_the_primary_alone_logs_holds_no_row_for_long() -> None:
    run = Scenario(4)
    for rank in range(4):
        run.log(rank, 0, loss=float(rank))
    run.log(0, 0, lr=0.1)
    run.tick()
    assert run.records == []
    run.now_ns += 500_000_000
    run.flush(*range(4))
    [record] = run.tick()
    assert record.cells.keys() == {"loss", "loss/mean", "loss/min", "loss/max", "loss/std", "lr"}


def test_a_row_is_emitted_early_once_every_expected_rank_has_flushed_and_its_aggregates_follow() -> None:
    run = Scenario(3)
    for rank in (0, 1):
        run.log(rank, 5, loss=float(rank))
    client = run.clients[2]
    client.add_rows([4], {"other": [1.0]}, [run.now_ns], False)
    run.happen("batch", client.stream, client.take(flushed=False))
    assert run.tick() == []
    run.now_ns += 500_000_000
    run.flush(0, 1)
    assert run.tick() == []  # rank 2 may have more
    run.flush(2)
    assert [record.cells for record in run.tick()] == [{"loss": 0}, {"other": 1}]
    run.log(2, 5, loss=5.0)
    [record] = run.tick()
    assert record["loss/mean"] == 2
    assert "loss" not in record.cells


def test_rows_wait_for_ranks_that_never_connect_until_join_wait_alone() -> None:
    run = Scenario(2, connected=[0])
    run.log(0, 0, loss=1.0)
    run.tick()
    run.flush(0)
    assert run.wait(4.9) == []
    [record] = run.wait(0.1)
    assert record.cells == {"loss": 1}
    run.log(0, 1, loss=2.0)
    run.tick()
    run.now_ns += 500_000_000
    run.flush(0)
    [record] = run.tick()
    assert record.cells == {"loss": 2}


def test_a_row_is_not_emitted_before_its_stream_is_beyond_it_or_flushed() -> None:
    run = Scenario(1)
    client = run.clients[0]
    client.add_rows([0], {"a": [1.0]}, [run.now_ns], False)
    run.happen("batch", client.stream, client.take(flushed=False))
    assert run.tick() == []
    client.add_rows([0], {"b": [2.0]}, [run.now_ns], False)  # joins the row
    run.happen("batch", client.stream, client.take(flushed=True))
    [record] = run.tick()
    assert record.cells == {"a": 1, "b": 2}


def test_what_comes_for_a_row_that_is_emitted_makes_a_further_record_of_it() -> None:
    run = Scenario(1)
    run.log(0, 7, a=1.0)
    run.tick()
    run.log(0, 7, b=2.0)
    run.tick()
    assert [(record.step, record.cells) for record in run.records] == [(7, {"a": 1}), (7, {"b": 2})]
    assert run.records[0].time_ns // 1_000_000 < run.records[1].time_ns // 1_000_000


def test_a_sole_reporters_cells_are_in_rows_of_its_own_in_the_order_logged() -> None:
    run = Scenario(4)
    for rank in range(4):
        run.log(rank, 0, time=1.0)
    run.log_rows(3, [9, 2, 5], {"loss": [1.0, 2.0, 3.0], "acc": [0.1, 0.2, 0.3]})
    run.finish(*range(4))
    run.tick()
    of_last = [record.cells for record in run.records if "loss" in record.cells]
    assert of_last == [{"loss": i + 1, "acc": pytest.approx((i + 1) / 10)} for i in range(3)]
    assert [record.step for record in run.records if "loss" in record.cells] == [9, 2, 5]


def test_ragged_logging_loses_no_value_of_an_aggregate() -> None:
    run, random = Scenario(4), Random(7)
    counts = {(rank, step): random.randint(1, 64) for rank in range(4) for step in range(50)}
    for step in range(50):
        for rank in random.sample(range(4), 4):
            run.log_rows(rank, [step] * counts[rank, step], {"x": [1.0] * counts[rank, step]})
            run.tick()
    run.finish(*range(4))
    run.tick()
    assert run.fold.books.late == 0
    for step in range(50):
        ranks = [sum(counts[rank, step] > n for rank in range(4)) for n in range(64)]
        found = [record.cells.get("x/count", 4) for record in run.rows_at(step) if "x/mean" in record.cells]
        assert found == [count for count in ranks if count]


def test_a_tree_has_the_same_rows_in_the_same_order() -> None:
    flat, tree = Scenario(4), Tree([[0, 1], [2, 3]])
    for run in (flat, tree):
        for step in (3, 1, 2, 2):
            for rank in (2, 0, 3, 1):
                run.log(rank, step, loss=float(rank + step))
        run.log(0, 2, lr=1.0)
        if isinstance(run, Tree):
            run.forward()
        run.finish(*range(4))
        if isinstance(run, Tree):
            run.forward()
        run.tick()
    assert [r.cells.keys() for r in flat.records] == [r.cells.keys() for r in tree.records]
    assert flat.steps() == tree.steps() == [3, 1, 2, 2]


# ---- kinds and axes ------------------------------------------------------------------------------


def test_integers_and_booleans_stay_so_and_of_aggregates_min_and_max_of_integers() -> None:
    run = Scenario(2)
    for rank in (0, 1):
        client = run.clients[rank]
        client.add_rows([0], {"epoch": [3 + rank], "done": [1.0], "loss": [0.5]}, [run.now_ns], False)
        client.body.blocks[0].kinds = bytes([1, 2, 0])
        run.send(rank)
    run.tick()
    [block] = run.blocks
    assert block.kinds is not None
    kinds = dict(zip(block.columns, block.kinds[0].tolist(), strict=True))
    assert {column for column, kind in kinds.items() if kind == 1} == {"epoch", "epoch/min", "epoch/max"}
    assert {column for column, kind in kinds.items() if kind == 2} == {"done"}


def test_a_record_has_the_axis_value_of_its_row_and_else_of_an_earlier_row_of_the_rank() -> None:
    run = Scenario(1, step_axes="val/*=epoch")
    run.log(0, 7, {"epoch": 0.0, "train": 0.5})
    run.log(0, 4, {"epoch": 1.0, "val/loss": 11.0})
    run.log(0, 5, {"val/loss": 12.0})
    run.tick()
    found = [
        (axis.name, [block.columns[at] for at in axis.columns]) for block in run.blocks for axis in block.axes
    ]
    assert found == [("epoch", ["val/loss"])]
    epochs = [dict(zip(b.steps.tolist(), a.values.tolist(), strict=True)) for b in run.blocks for a in b.axes]
    assert (epochs[0][4], epochs[0][5]) == (1.0, 1.0)


def test_a_series_that_begins_before_its_axis_stays_on_the_step_with_one_warning() -> None:
    run = Scenario(1, step_axes="val/*=epoch")
    run.log(0, 0, {"val/loss": 1.0, "val/acc": 0.5})
    run.tick()
    run.log(0, 1, {"val/loss": 2.0, "val/acc": 0.5, "epoch": 5.0})
    run.tick()
    assert [block.axes for block in run.blocks] == [(), ()]
    (warning,) = run.warnings
    assert "'val/loss' has the axis 'epoch'" in warning
    assert set(run.warnings) <= set(run.notices)


def test_an_item_has_the_axis_values_of_its_row() -> None:
    run = Scenario(1, step_axes="samples=epoch")
    run.log(0, 7, {"epoch": 3.0})
    run.log(0, 8, {"loss": 1.0})
    run.give(0, "table", "samples", step=7, row=0)
    run.log(0, 9, {"epoch": 4.0})
    run.give(0, "table", "samples", step=8, row=1)
    run.tick()
    assert [item.axes for item in run.items] == [{"epoch": 3.0}, {"epoch": 3.0}]
