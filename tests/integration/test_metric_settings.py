"""Settings by metric and configurations, from four ranks to what CSV, MLflow and W&B hold."""

from __future__ import annotations

import json
import os

import pytest
from mlflow import MlflowClient
from wandb.proto import wandb_internal_pb2

from tests.support.daemon import Daemon
from tests.support.ranks import Ranks
from tests.support.waiting import wait_until
from tracker_daemon.backends.wandb.transaction_log import LoggedRow, TransactionLog

RANK = """
import os
from tracker_client import setup_tracker

rank = int(os.environ["RANK"])
tracker = setup_tracker(
    "by-metric",
    config={"lr": 0.1 if rank < 2 else 0.2, "net": {"width": 3}, "local_rank": rank, "api_key": "hidden"},
    aggregates={"lr": "none", "loss": ["mean", "max"]},
    summaries={"eval/acc": "max"},
)
for step in range(60):
    tracker.log({"loss": float((7 * step) % 23 + rank), "lr": 0.1}, step=step)
    if rank == 0 and step % 20 == 19:
        tracker.log({"eval/acc": [0.5, 0.9, 0.7][step // 20], "epoch": step // 20}, step=step)
if rank == 0:
    tracker.log_config({"lr": 0.3})
    input()
tracker.finish()
"""
DIFFERS = (
    "ranks 2-3 were set up with another configuration than rank 0, whose values count: "
    "lr is 0.1 on rank 0, 0.2 on"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory, empty_database):
    """A finished run of four ranks in all three backends; the daemon's directory and what ranks said."""
    home = tmp_path_factory.mktemp("by-metric")
    flags = (
        "--backends",
        "csv,mlflow,wandb",
        "--step-axes",
        "eval/*=epoch",
        "--thinning",
        "mlflow:loss*=1min",
    )
    daemon = Daemon(home, flags)
    daemon.begin_mlflow_store(empty_database)
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(("MLFLOW_", "WANDB_"))}
    os.environ["WANDB_MODE"] = "offline"
    ranks = Ranks(daemon.start())
    try:
        processes = ranks.start(RANK, [1], 4)
        wait_until(lambda: "a rank waits for its run" in daemon.log(), "rank 1 to connect first")
        processes = [*ranks.start(RANK, [0], 4), *processes, *ranks.start(RANK, [2, 3], 4)]
        wait_until(lambda: DIFFERS in daemon.log(), "the daemon to tell what differs")
        told = [process.communicate("\n", timeout=60)[1] for process in processes]
        daemon.stop()
    finally:
        del os.environ["WANDB_MODE"]
        os.environ.update(kept)
        if daemon.process.poll() is None:
            daemon.kill()
    assert [process.returncode for process in processes] == [0] * 4, told
    return daemon, told


@pytest.fixture(scope="module")
def stored(run):
    client = MlflowClient(f"sqlite:///{run[0].outdir / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("by-metric").experiment_id])
    return client, found


def logged_by_wandb(daemon):
    """What the .wandb file says: definitions by metric, and rows of history."""
    (path,) = daemon.outdir.glob("wandb/*run-*/run-*.wandb")
    records = [wandb_internal_pb2.Record.FromString(payload) for payload in TransactionLog(path).payloads()]
    metrics = [record.metric for record in records if record.WhichOneof("record_type") == "metric"]
    rows = [logged.values for logged in TransactionLog(path).read() if isinstance(logged, LoggedRow)]
    return {metric.name or metric.glob_name: metric for metric in metrics}, rows


def points(stored, key):
    client, found = stored
    return sorted((point.step, point.value) for point in client.get_metric_history(found.info.run_id, key))


def test_csv_has_the_aggregates_that_the_rules_choose_and_every_value(run):
    rows = run[0].rows()
    assert {"loss", "loss/mean", "loss/max", "lr", "eval/acc", "epoch"} <= set(rows[0])
    assert not {"loss/min", "loss/std", "lr/mean", "lr/max"} & set(rows[0])
    # A row with an evaluation may come after those that follow it: it waits for whether other ranks report.
    losses = sorted((int(row["step"]), float(row["loss"])) for row in rows if row["loss"])
    assert losses == [(step, float((7 * step) % 23)) for step in range(60)]


def test_mlflow_has_the_epoch_as_step_and_the_summary_as_a_metric(stored):
    assert points(stored, "eval/acc") == [(0, 0.5), (1, 0.9), (2, 0.7)]
    assert points(stored, "eval/acc.max") == [(39, 0.9)]
    assert points(stored, "lr") == [(step, 0.1) for step in range(60)]


def test_thinned_mlflow_has_few_points_and_the_extremes_among_them(run, stored):
    for key, offset in (("loss", 0.0), ("loss/mean", 1.5), ("loss/max", 3.0)):
        whole = [(step, (7 * step) % 23 + offset) for step in range(60)]
        kept = points(stored, key)
        assert set(kept) < set(whole)
        assert {whole[0], whole[-1], min(whole, key=lambda p: p[1]), max(whole, key=lambda p: p[1])} <= set(
            kept
        )
        # The first, last, least and greatest, of two minutes at most, with and without an evaluation.
        assert len(kept) <= 16
    (status,) = run[0].last_status()["runs"]
    backends = {backend["name"]: backend for backend in status["backends"]}
    for backend in backends.values():
        counts = [backend[name] for name in ("delivered", "thinned", "pending", "set_aside")]
        assert sum(counts) == status["records"]["emitted"] or backend["name"].endswith(":files")
    assert backends["mlflow"]["thinned_points"] >= 3 * (60 - 16)
    assert backends["csv"]["thinned_points"] == 0


def test_wandb_is_told_the_axis_and_the_summary_and_has_every_value(run):
    definitions, rows = logged_by_wandb(run[0])
    assert definitions["eval/acc"].step_metric == "epoch"
    assert definitions["eval/acc"].summary.max
    assert definitions["*"].step_metric == "step"
    assert "loss" not in definitions
    assert len([row for row in rows if "loss" in row]) == 60


def test_a_rank_whose_configuration_differs_is_told_in_status_log_and_on_the_primary(run):
    daemon, told = run
    (status,) = daemon.last_status()["runs"]
    assert [event["text"] for event in status["events"] if DIFFERS in event["text"]]
    assert DIFFERS in daemon.log()
    assert [DIFFERS in text for text in told] == [True, False, False, False]
    assert "local_rank" not in "".join(told)


def test_the_configuration_is_the_primarys_with_its_changes_beside_it(run, stored):
    outdir = run[0].outdir
    config = json.loads((outdir / "config.json").read_text())
    assert config == {"lr": 0.3, "net": {"width": 3}, "local_rank": 0, "api_key": "****"}
    (line,) = (outdir / "config_history.jsonl").read_text().splitlines()
    change = json.loads(line)
    assert (change["rank"], change["attempt"], change["key"]) == (0, 1, "lr")
    assert (change["old"], change["new"]) == (0.1, 0.3)
    (status,) = run[0].last_status()["runs"]
    assert "rank 0 changed the configuration: lr 0.1 → 0.3" in [event["text"] for event in status["events"]]
    _, found = stored
    assert found.data.params["config.lr"] == "0.1"
    assert found.data.params["lr"] == "0.3"  # a later configuration has no prefix
    everything = b"".join(path.read_bytes() for path in run[0].home.rglob("*") if path.is_file())
    assert b"hidden" not in everything


def test_the_primary_rank_describes_the_script_though_another_connected_first(stored):
    params = stored[1].data.params
    assert (params["tracker.rank"], params["tracker.world_size"]) == ("0", "4")
    assert {"tracker.version", "tracker.hostname", "tracker.timestamp", "tracker.command"} <= set(params)
