"""Loops as well-known scripts write them, whose files are compared value by value with what they logged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.ranks import Ranks, finish
from tests.support.rows_oracle import Call, check_csv

RUN = "import runpy, sys; runpy.run_module('tests.integration.scripts', run_name='__main__', alter_sys=False)"
LOOPS = ("nanogpt", "cleanrl", "open_clip", "timm")


def calls_of(directory: Path, name: str, world_size: int) -> dict[int, list[Call]]:
    return {
        rank: [Call(*call) for call in json.loads((directory / f"{name}-{rank}.json").read_text())]
        for rank in range(world_size)
    }


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_what_training_loops_log_is_recorded_value_by_value(
    make_daemon: Callable[..., Daemon], tmp_path: Path, world_size: int
) -> None:
    daemon = make_daemon()
    root = str(Path(__file__).parents[2])
    for process in Ranks(daemon).start(RUN, range(world_size), world_size, (str(tmp_path),), PYTHONPATH=root):
        finish(process)
    assert daemon.stop() == 0
    wrong = {
        name: check_csv(tmp_path / name / "metrics.csv", calls_of(tmp_path, name, world_size))[:5]
        for name in LOOPS
    }
    assert wrong == {name: [] for name in LOOPS}
