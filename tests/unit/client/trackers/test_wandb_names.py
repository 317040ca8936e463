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


def test_axes_and_summaries_cause_a_warning_with_the_arguments_that_do_the_same(make_daemon, connect, caplog):
    tracker = connect(make_daemon(backends=("wandb",)), backends="wandb")
    wandb.define_metric("tokens")
    wandb.define_metric("train/*", step_metric="tokens", summary="max")
    tracker.finish()
    (warning,) = (text for text in caplog.messages if "define_metric" in text)
    assert "step_axes={'train/*': 'tokens'}, summaries={'train/*': 'max'}" in warning
