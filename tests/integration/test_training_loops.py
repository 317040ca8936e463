"""Loops as well-known scripts write them: every backend is compared value by value with what they logged."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

pytest.importorskip("mlflow")
pytest.importorskip("wandb")

from mlflow import MlflowClient

from tests.integration.scripts import open_clip_like, timm_like
from tests.support.daemon import Daemon
from tests.support.ranks import Ranks, finish
from tests.support.rows_oracle import Call, Row, Value, check_csv, check_rows, read_csv
from tracker_daemon.backends.wandb.transaction_log import LoggedMetric, LoggedRow, TransactionLog

RUN = "import runpy, sys; runpy.run_module('tests.integration.scripts', run_name='__main__', alter_sys=False)"
LOOPS = ("nanogpt", "cleanrl", "open_clip", "timm")
WORLD_SIZES = (1, 2, 4)
IN_EVERY_BACKEND = (1, 4)
"""Each run in MLflow and W&B costs seconds: with 2 ranks, CSV alone."""
AXES = {"open_clip": open_clip_like.AXES, "timm": timm_like.AXES}
Points = dict[str, list[tuple[int, float]]]
"""By metric, the step and the value of each point, sorted."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A directory for each world size, in which one daemon has recorded the loops in every backend."""
    home = tmp_path_factory.mktemp("loops")
    shutil.copy(empty_database, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("WANDB_", "WB_", "MLFLOW_"))]:
            patch.delenv(name)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
        patch.setenv("WANDB_MODE", "offline")
        ranks = Ranks(Daemon(home).start())
        for world_size in WORLD_SIZES:
            (home / str(world_size)).mkdir()
            arguments = (str(home / str(world_size)),)
            variables = {"PYTHONPATH": str(Path(__file__).parents[2]), "TRACKER_LAUNCH_ID": str(world_size)}
            variables["TRACKER_BACKENDS"] = "csv,mlflow,wandb" if world_size in IN_EVERY_BACKEND else "csv"
            for process in ranks.start(RUN, range(world_size), world_size, arguments, **variables):
                finish(process)
        assert ranks.daemon.stop() == 0
    return home


def calls_of(directory: Path, name: str, world_size: int) -> dict[int, list[Call]]:
    return {
        rank: [Call(*call) for call in json.loads((directory / f"{name}-{rank}.json").read_text())]
        for rank in range(world_size)
    }


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_what_training_loops_log_is_recorded_value_by_value(home: Path, world_size: int) -> None:
    directory = home / str(world_size)
    wrong = {
        name: check_csv(directory / name / "metrics.csv", calls_of(directory, name, world_size))[:5]
        for name in LOOPS
    }
    assert wrong == {name: [] for name in LOOPS}


@pytest.mark.parametrize("world_size", IN_EVERY_BACKEND)
def test_wandb_has_the_same_rows_and_the_axes(home: Path, world_size: int) -> None:
    for name in LOOPS:
        directory = home / str(world_size)
        rows, defined = read_wandb(directory / name)
        calls = calls_of(directory, name, world_size)
        # W&B's own process writes -100.0 as -100.
        numbers = {
            rank: [replace(call, values=as_floats(call.values)) for call in of] for rank, of in calls.items()
        }
        assert check_rows(rows, numbers)[:5] == [], name
        axis_of = axes_of(name, read_csv(directory / name / "metrics.csv"))
        assert {
            metric: one.step_metric for metric, one in defined.items() if one.step_metric != "step"
        } == axis_of
        # A chart needs the axis in each row that has a value over it.
        assert all(axis_of[key] in row.values for row in rows for key in row.values.keys() & axis_of.keys())
        if name == "open_clip":
            assert {one.summary for metric, one in defined.items() if metric.startswith("val/")} == {"max"}


@pytest.mark.parametrize("world_size", IN_EVERY_BACKEND)
def test_mlflow_has_the_same_points_at_the_steps_of_their_axes(home: Path, world_size: int) -> None:
    for name in LOOPS:
        rows = read_csv(home / str(world_size) / name / "metrics.csv")
        axis_of, wanted = axes_of(name, rows), defaultdict(list)
        for row in rows:
            for key, value in row.values.items():
                step = row.values[axis_of[key]] if key in axis_of else row.step
                wanted[key].append((step, float(value)))
        found = read_mlflow(home, f"{name}-{world_size}")
        summaries = {key: found.pop(key) for key in list(found) if key.endswith((".max", ".mean"))}
        assert found == {key: sorted(points) for key, points in wanted.items()}, name
        if name == "open_clip":
            best = max(value for _, value in wanted["val/imagenet-zeroshot-val-top1"])
            assert [value for _, value in summaries["val/imagenet-zeroshot-val-top1.max"]] == [best]
            assert summaries["train/scale.mean"][0][1] == pytest.approx(14.3)


def axes_of(name: str, rows: list[Row]) -> dict[str, str]:
    """By column, the axis that the loop has defined."""
    columns = {key for row in rows for key in row.values}
    return {
        key: axis for glob, axis in AXES.get(name, {}).items() for key in columns if fnmatchcase(key, glob)
    }


def read_wandb(directory: Path) -> tuple[list[Row], dict[str, LoggedMetric]]:
    """Return the rows of a run that was recorded offline, and its definitions of single metrics."""
    (log,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    found = list(TransactionLog(log).read())
    rows = [dict(one.values) for one in found if isinstance(one, LoggedRow)]
    for row in rows:
        del row["_timestamp"]
    defined = {one.name: one for one in found if isinstance(one, LoggedMetric)}
    return [Row(row.pop("step"), as_floats(row)) for row in rows], defined


def as_floats(values: Mapping[str, Value]) -> dict[str, Value]:
    return {key: value if isinstance(value, (bool, str)) else float(value) for key, value in values.items()}


def read_mlflow(home: Path, experiment: str) -> Points:
    """Return the points of the only run of an experiment."""
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return {
        key: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, key))
        for key in run.data.metrics
    }
