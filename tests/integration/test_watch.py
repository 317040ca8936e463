"""A watched model the whole way: four ranks that train together, a daemon, and what each backend shows."""

import json
import math

import pytest

from tests.support.daemon import Daemon
from tests.support.ranks import Ranks
from tracker_daemon.backends.wandb.transaction_log import LoggedRow, TransactionLog

pytest.importorskip("torch")
mlflow = pytest.importorskip("mlflow")
pytest.importorskip("wandb")

WATCHED_STEPS = (1, 3)
pytestmark = pytest.mark.long

KINDS = ("ddp", "fsdp1", "fsdp1_names", "fsdp2")
RANKS = 4

TRAINING = """
import json, os
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from tracker_client import setup_tracker

torch.set_num_threads(1)
rank = int(os.environ["RANK"])
store = "file://" + os.environ["STORE"]
distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=4)


def net():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))


def sharded(model):
    mesh = init_device_mesh("cpu", (4,))
    fully_shard(model[0], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def local(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


cpu = torch.device("cpu")
models = {
    "ddp": DistributedDataParallel(net()),
    "fsdp1": FullyShardedDataParallel(net(), device_id=cpu),
    "fsdp1_names": FullyShardedDataParallel(net(), device_id=cpu, use_orig_params=True),
    "fsdp2": sharded(net()),
}
seen = {}
torch.manual_seed(rank)
with setup_tracker("watched", item_ranks="1,2,3") as tracker:
    for number, (kind, model) in enumerate(models.items()):
        tracker.watch(model, log="all", log_freq=2)
        for step in range(number * 10, number * 10 + 4):
            model.zero_grad()
            loss = model(torch.randn(4, 3)).square().sum()
            loss.backward()
            tracker.log({"loss": loss.item()}, step=step)
            seen[step] = {
                name: local(one.grad).norm().item()
                for name, one in model.named_parameters()
                if one.grad is not None and local(one.grad).numel()
            }
    Path(os.environ["SEEN"], f"{rank}.json").write_text(json.dumps(seen))
    tracker.finish(wait="delivered", timeout=180)
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, empty_database):
    """Four ranks have trained and ended: the daemon's outdir, and the norms that each rank saw, by step."""
    home = tmp_path_factory.mktemp("watched")
    daemon = Daemon(home, ("--backends", "csv,mlflow,wandb"))
    daemon.begin_mlflow_store(empty_database)
    daemon.start()
    try:
        variables = {"STORE": str(home / "store"), "SEEN": str(home), "WANDB_MODE": "offline"}
        Ranks(daemon).run(TRAINING, RANKS, **variables)
        assert daemon.stop() == 0
    finally:
        if daemon.process.poll() is None:
            daemon.kill()
    return daemon, [json.loads((home / f"{rank}.json").read_text()) for rank in range(RANKS)]


def plain(name):
    for wrapper in ("_fsdp_wrapped_module.", "module."):
        name = name.removeprefix(wrapper)
    return name


def cells(daemon):
    return {
        (int(row["step"]), name): float(value)
        for row in daemon.rows()
        for name, value in row.items()
        if value and name != "step"
    }


@pytest.mark.parametrize("number", range(len(KINDS)), ids=KINDS)
def test_each_rank_records_the_reduced_gradients_of_what_it_holds(recorded, number):
    daemon, seen = recorded
    found = cells(daemon)
    prefix = f"gradients/model{number}." if number else "gradients/"
    for step in (10 * number + watched for watched in WATCHED_STEPS):
        expected = {}
        for rank in range(RANKS):
            suffix = f"/rank{rank}" if rank else ""
            for name, norm in seen[rank][str(step)].items():
                expected[step, f"{prefix}{plain(name)}/norm{suffix}"] = norm
        assert expected
        assert {key: found.get(key) for key in expected} == pytest.approx(expected, rel=1e-5)
    if KINDS[number] == "ddp":
        assert all(one["1"] == seen[0]["1"] for one in seen)
    unwatched = {10 * number, 10 * number + 2}
    assert not [name for step, name in found if step in unwatched and name.startswith(("grad", "param"))]


def test_nothing_is_computed_of_them_across_ranks(recorded):
    daemon, _ = recorded
    found = cells(daemon)
    assert found[1, "gradients/0.weight/min"] < found[1, "gradients/0.weight/mean"]
    assert not [name for _, name in found if name.endswith(("/norm/mean", "/norm/count", "/mean/mean"))]
    assert (1, "loss/mean") in found
    assert (1, "parameters/0.weight/std/rank1") in found


def test_the_primarys_share_the_record_of_their_call_and_other_ranks_have_their_own(recorded):
    daemon, _ = recorded
    rows = [{name: value for name, value in row.items() if value} for row in daemon.rows()]
    trained = [10 * number + step for number in range(len(KINDS)) for step in range(4)]
    primarys = [row for row in rows if "loss" in row]
    assert [int(row["step"]) for row in primarys] == trained
    assert all(
        name in primarys[1] for name in ("loss/mean", "gradients/0.weight/norm", "parameters/2.bias/std")
    )
    for rank in range(1, RANKS):
        own = [int(row["step"]) for row in rows if any(name.endswith(f"/rank{rank}") for name in row)]
        assert own == sorted(set(own))
        assert set(own) >= set(WATCHED_STEPS)


def test_mlflow_has_the_scalars(recorded):
    daemon, _ = recorded
    client = mlflow.MlflowClient(f"sqlite:///{daemon.outdir}/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name == "watched"]
    (run,) = client.search_runs([experiment.experiment_id])
    found = cells(daemon)
    for name in ("gradients/0.weight/norm", "gradients/0.weight/norm/rank3", "parameters/2.bias/std/rank1"):
        history = client.get_metric_history(run.info.run_id, name)
        assert [(point.step, point.value) for point in history] == [
            (step, found[step, name]) for step in WATCHED_STEPS
        ]


def test_wandb_has_a_histogram_for_each_parameter_and_the_scalars(recorded):
    daemon, _ = recorded
    (log,) = daemon.outdir.glob("wandb/offline-run-*/run-*.wandb")
    rows = [row.values for row in TransactionLog(log).read() if isinstance(row, LoggedRow)]
    found = cells(daemon)
    histograms = {
        (row["step"], name): value for row in rows for name, value in row.items() if isinstance(value, dict)
    }
    watched = [(step, name) for step, name in found if name.startswith(("gradients/", "parameters/"))]
    assert set(histograms) == {(step, name.replace("/std", "")) for step, name in watched if "/std" in name}
    one = histograms[1, "gradients/0.weight"]
    assert one["_type"] == "histogram"
    assert sum(one["values"]) == 18
    assert one["bins"][0] == found[1, "gradients/0.weight/min"]
    assert math.isclose(one["bins"][-1], found[1, "gradients/0.weight/max"])
    for name in ("gradients/0.weight/norm", "gradients/0.weight/norm/rank3"):
        assert [row[name] for row in rows if name in row] == [found[step, name] for step in WATCHED_STEPS]
