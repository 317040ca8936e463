"""The params that describe a run's script and host: each one that the seed's users search by."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.mlflow.description import system_params

SEEDS = {
    "version", "hostname", "machine", "scheduler", "device", "backend", "world_size", "rank", "local_rank",
    "working_directory", "timestamp", "date", "year", "month", "day", "python_version", "torch_version",
    "command", "git_branch",
}  # fmt: skip
TOLD = {
    "version": "1", "host": "node7", "machine": "x86_64", "scheduler": "PBS",
    "device": "cuda", "world_size": "8",
    "backend": "nccl", "rank": "0", "local_rank": "0", "working_directory": "/w", "python_version": "3.11",
    "torch_version": "2.13", "command": "train.py --api-key=****", "git_branch": "main",
}  # fmt: skip
BEGUN_NS = 1_772_323_199_000_000_000
LATER = datetime(2030, 1, 1, tzinfo=timezone.utc)


def params_of(**fields):
    return system_params(RunDescription("r", "p", "n", Path("/o"), environment=TOLD, **fields), LATER)


def test_all_params_of_the_seed_are_there_under_our_prefix():
    params = params_of(created_ns=BEGUN_NS)
    assert {name.removeprefix("tracker.") for name in params} == SEEDS
    assert params["tracker.hostname"] == "node7"


def test_the_time_is_that_of_the_runs_beginning_in_utc():
    params = params_of(created_ns=BEGUN_NS)
    assert params["tracker.timestamp"] == "2026-02-28T23:59:59+00:00"
    assert [params[f"tracker.{name}"] for name in ("date", "year", "month", "day")] == [
        "2026-02-28",
        "2026",
        "2",
        "28",
    ]


def test_a_setting_keeps_the_seeds_prefix():
    assert set(params_of(system_prefix="ezpz")) == {f"ezpz.{name}" for name in SEEDS}
