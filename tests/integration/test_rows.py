"""Rows, cells and order: whole daemons with real ranks, whose files are compared with the rules' own form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.support.daemon import Daemon
from tests.support.daemon_tree import planted
from tests.support.followed_rows import FollowedRows
from tests.support.ranks import Ranks, finish
from tests.support.rows_runs import (
    REPLAY,
    PlannedRun,
    one_rank,
    ragged,
    seeds_example,
    several_ranks,
    write_plan,
)
from tracker_daemon.backends.wandb.transaction_log import LoggedRow, TransactionLog

LATE_S = 4.5
"""A row is due 1 s after the last rank has passed its step; the rest is for slow machines. A row that waits
for learning would take 5 s."""
MANY_LATE_S = 10.0
"""The same for 10,000 rows, which take a slow machine some seconds. A missed cell would take 30 s."""
MakeDaemon: TypeAlias = Callable[..., Daemon]


def errors(runs: list[PlannedRun], directory: Path) -> dict[str, list[str]]:
    """What is wrong, by run."""
    found = {run.name: run.errors(directory)[:5] for run in runs}
    return {name: wrong for name, wrong in found.items() if wrong}


def run_directly(make_daemon: MakeDaemon, runs: list[PlannedRun], world_size: int, home: Path) -> None:
    daemon = make_daemon()
    plan = write_plan(runs, home)
    for process in Ranks(daemon).start(REPLAY, range(world_size), world_size, (str(plan),)):
        finish(process)
    assert daemon.stop() == 0
    books = [run["books"] for run in daemon.last_status()["runs"]]
    assert all((book["late"], book["rejected"], book["open"]) == (0, 0, 0) for book in books), books


def test_the_rows_of_one_rank_are_recorded_as_they_were_logged(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    runs = one_rank()
    run_directly(make_daemon, runs, 1, tmp_path)
    assert errors(runs, tmp_path) == {}


@pytest.mark.parametrize("world_size", [2, 4])
def test_rows_and_cells_of_several_ranks_are_right_whatever_their_timing(
    make_daemon: MakeDaemon, tmp_path: Path, world_size: int
) -> None:
    runs = several_ranks(world_size)
    run_directly(make_daemon, runs, world_size, tmp_path)
    assert errors(runs, tmp_path) == {}


def test_ragged_ranks_lose_no_value_of_any_aggregate_and_no_row_is_late(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    runs = [ragged(4, 200)]
    with FollowedRows(tmp_path / runs[0].name / "metrics.csv") as rows:
        run_directly(make_daemon, runs, 4, tmp_path)
    assert errors(runs, tmp_path) == {}
    assert max(rows.latencies(runs[0].passed(tmp_path))) < (MANY_LATE_S, 0)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_metric_of_the_primary_alone_delays_no_row_and_changes_no_order(
    make_daemon: MakeDaemon, tmp_path: Path, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = seeds_example(world_size)
    with FollowedRows(tmp_path / run.name / "metrics.csv") as rows:
        run_directly(make_daemon, [run], world_size, tmp_path)
    assert errors([run], tmp_path) == {}
    assert max(rows.latencies(run.passed(tmp_path))) < (LATE_S, 0)
    (log,) = (tmp_path / run.name).glob("wandb/*run-*/run-*.wandb")
    logged = [row for row in TransactionLog(log).read() if isinstance(row, LoggedRow)]
    assert [(row.step, row.values["step"]) for row in logged] == [(step, step) for step in range(13)]


def test_rows_and_cells_that_nodes_forward_are_as_right(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    runs = several_ranks(4)
    plan = write_plan(runs, tmp_path)
    with planted(make_daemon) as tree:
        for rank in range(4):
            at_node = Ranks(tree.nodes[rank // 2])
            at_node.start(REPLAY, [rank], 4, (str(plan),))
            tree.ranks.append(at_node)
        for at_node in tree.ranks:
            for process in at_node.processes:
                finish(process)
        tree.stop()
    assert errors(runs, tmp_path) == {}
