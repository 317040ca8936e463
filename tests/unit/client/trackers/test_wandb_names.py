"""Which trackers set the names of the module ``wandb``, and for how long."""

from __future__ import annotations

import pytest

from tracker_client import TrackerBackend, register_backend
from tracker_client.backends import base

wandb = pytest.importorskip("wandb")


class Plain(TrackerBackend):
    def log(self, metrics, step=None, commit=True): ...

    def log_config(self, config): ...

    def finish(self): ...


def test_a_tracker_whose_run_has_wandb_sets_the_names_until_it_finishes(make_daemon, connect):
    tracker = connect(make_daemon(backends=("csv", "wandb")))
    assert tracker.run_id
    assert wandb.run is tracker.wandb_run
    assert wandb.config is wandb.run.config
    wandb.config.update({"lr": 0.1})
    assert wandb.config.lr == 0.1
    tracker.finish()
    assert wandb.run is None


def test_the_names_are_reset_once_the_daemon_names_backends_without_wandb(make_daemon, connect):
    tracker = connect(make_daemon(backends=("csv",)))
    assert tracker.run_id
    assert wandb.run is None


@pytest.mark.parametrize("options", [{"backends": "csv"}, {"rank": 1, "world_size": 2}])
def test_a_tracker_of_another_backend_or_of_another_rank_sets_nothing(make_daemon, connect, options):
    connect(make_daemon(backends=("csv", "wandb")), **options)
    assert wandb.run is None


def test_a_class_of_the_script_with_that_name_has_the_names_to_itself(make_daemon, connect, monkeypatch):
    monkeypatch.setattr(base, "_registered", {})
    register_backend("wandb", Plain)
    connect(make_daemon(backends=("wandb",)), backends="wandb")
    assert wandb.run is None


def test_the_modules_define_metric_defines_for_the_tracker_in_wandbs_words(make_daemon, connect, caplog):
    daemon = make_daemon(backends=("wandb",))
    tracker = connect(daemon, backends="wandb")
    tokens = wandb.define_metric("tokens")
    wandb.define_metric("train/*", step_metric=tokens, summary="max", step_sync=True)
    wandb.define_metric("acc", summary="best", goal="maximize")
    wandb.define_metric("loss", summary="min,last")
    wandb.define_metric("time", summary="first")
    tracker.finish()
    sent = [
        (one.glob, one.step_metric, one.summary)
        for body in daemon.stream.bodies.values()
        for one in body.definitions
    ]
    assert sent == [("train/*", "tokens", "max"), ("acc", "", "max"), ("loss", "", "min")]
    warnings = [text for text in caplog.messages if "define_metric" in text]
    assert len(warnings) == 2
    assert "'min'" in warnings[0]
    assert "last, min, max, mean, none" in warnings[1]
