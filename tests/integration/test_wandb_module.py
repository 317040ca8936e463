"""Scripts that call ``wandb`` beside the tracker: with the daemon's run, and with a run of their own."""

from __future__ import annotations

import json
import os
import socket

import pytest

from tests.support.ranks import Ranks, finish

pytest.importorskip("wandb")

from tracker_daemon.backends.wandb.transaction_log import (
    LoggedConfig,
    LoggedMetric,
    LoggedRow,
    TransactionLog,
)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("WANDB_", "WB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def recorded(directory):
    """Rows and configuration in the only W&B run below ``directory``."""
    (log,) = directory.rglob("run-*.wandb")
    found = list(TransactionLog(log).read())
    config = {}
    for change in found:
        if isinstance(change, LoggedConfig):
            config.update(change.values)
    return [row for row in found if isinstance(row, LoggedRow)], config


def columns(rows, *names):
    return {
        name: [(row.values["step"], row.values[name]) for row in rows if name in row.values] for name in names
    }


CALLS = """
import json, os, sys
from tracker_client import setup_tracker
tracker = setup_tracker("p", config={"lr": 0.1})
import wandb
rank = int(os.environ["RANK"])
told = {"run": wandb.run is not None}
if wandb.run is not None:
    assert wandb.run is tracker.wandb_run
for step in range(4):
    if wandb.run is not None:
        wandb.log({"timeit/step": 0.5 + step}, commit=False)
    tracker.log({"loss": step + rank}, step=step)
if wandb.run is not None:
    wandb.config.update({"args": {"seed": 7}}, allow_val_change=True)
    wandb.config.depth = 3
    wandb.summary["best"] = 0.25
    wandb.define_metric("val/*", step_metric="tokens", summary="max")
    wandb.log({"val/acc": 0.5, "tokens": 1024}, step=4)
    wandb.save("model.pt")
    wandb.log({"weights": wandb.Histogram([1, 2, 3])}, step=4)
tracker.finish()
told["afterwards"] = wandb.run is not None
print(json.dumps(told))
"""


def test_what_a_script_logs_by_wandb_itself_is_in_every_backend_and_of_the_primary_rank_alone(make_daemon):
    daemon = make_daemon("--backends", "csv,wandb")
    primary, other = (json.loads(out) for out in Ranks(daemon).run(CALLS, 2))
    assert primary == {"run": True, "afterwards": False}
    assert other == {"run": False, "afterwards": False}
    assert daemon.stop() == 0
    rows, config = recorded(daemon.outdir)
    found = columns(rows, "timeit/step", "loss", "loss/mean", "best", "weights")
    assert found["timeit/step"] == [(step, 0.5 + step) for step in range(4)]
    assert found["loss"] == [(step, step) for step in range(4)]
    assert found["loss/mean"] == [(step, step + 0.5) for step in range(4)]
    assert found["best"] == [(4, 0.25)]
    ((step, weights),) = found["weights"]
    assert (step, weights["_type"]) == (4, "histogram")
    (log,) = daemon.outdir.rglob("run-*.wandb")
    defined = [one for one in TransactionLog(log).read() if isinstance(one, LoggedMetric)]
    assert defined == [LoggedMetric("val/acc", "tokens", "max")]
    assert (config["lr"], config["args"], config["depth"]) == (0.1, {"seed": 7}, 3)
    assert (config["world_size"], config["hostname"]) == (2, socket.gethostname())
    written = [(row["step"], float(row["timeit/step"]), float(row["loss"])) for row in daemon.rows()[:4]]
    assert written == [(str(step), 0.5 + step, float(step)) for step in range(4)]


ADOPTED = """
import os, sys, wandb
from tracker_client import setup_tracker
rank = int(os.environ["RANK"])
if rank == 0:
    run = wandb.init(project="own", id="mine", dir=sys.argv[1], config={"given": 1})
    wandb.define_metric("tokens")
tracker = setup_tracker("p", backends="csv,wandb", config={"lr": 0.1})
print("set up", tracker.run_id, flush=True)
sys.stdin.readline()
for step in range(4):
    if rank == 0:
        wandb.log({"timeit/step": 0.5 + step}, commit=False)
    tracker.log({"loss": step + rank}, step=step)
if rank == 0:
    assert wandb.run is run is tracker.wandb_run
    wandb.config.update({"direct": 2})
    tracker.log_config({"late": 3})
    wandb.log({"page": wandb.Html("<p>"), "score": 0.75}, step=4)
    tracker.log_table("answers", ["a"], [[1]])
    tracker.log_artifacts({"code": sys.argv[2]})
if rank == 0 and sys.argv[3] == "failing":
    raise ValueError("diverged")
tracker.finish()
"""


@pytest.mark.parametrize("end", ["finishing", "failing"])
def test_a_run_that_the_script_opened_takes_the_records_and_the_daemon_opens_none(daemon, tmp_path, end):
    arguments = (str(tmp_path), __file__, end)
    started = Ranks(daemon).start(ADOPTED, range(2), 2, arguments)
    for process in started:
        assert process.stdout.readline().startswith("set up")
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    _, err = started[0].communicate(timeout=120)
    assert started[0].returncode == (1 if end == "failing" else 0), err
    assert "Html" not in err
    finish(started[1])
    assert not (daemon.outdir / "wandb").exists()
    rows, config = recorded(tmp_path / "wandb")
    found = columns(rows, "timeit/step", "loss", "loss/mean", "loss/max", "score", "page", "answers")
    assert found["timeit/step"] == [(step, 0.5 + step) for step in range(4)]
    assert found["loss"] == [(step, step) for step in range(4)]
    assert found["loss/mean"] == [(step, step + 0.5) for step in range(4)]
    assert found["loss/max"] == [(step, step + 1) for step in range(4)]
    assert found["score"] == [(4, 0.75)]
    ((step, page),) = found["page"]
    assert (step, page["_type"]) == (4, "html-file")
    assert [value["_type"] for _, value in found["answers"]] == ["table-file"]
    assert [row.step for row in rows] == sorted({row.step for row in rows})
    assert {name: config[name] for name in ("given", "direct", "lr", "late")} == {
        "given": 1, "direct": 2, "lr": 0.1, "late": 3,
    }  # fmt: skip
    assert (config["world_size"], config["hostname"]) == (2, socket.gethostname())
