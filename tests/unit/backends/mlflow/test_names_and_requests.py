"""Names that MLflow takes, by MLflow's own rules, and the requests that it takes at once."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker_daemon.aggregation.shared.record import RecordBlock
from tracker_daemon.backends.mlflow.names import (
    MetricKeys,
    experiment_name,
    flatten,
    mlflow_key,
    text_key,
)
from tracker_daemon.backends.mlflow.requests import (
    metric_requests,
    pair_requests,
    param_value,
    tag_key,
    whole_value_tags,
)
from tracker_protocol import limits

AWKWARD = [
    "", "/", ".", "..", "../x", "a//b", "a/", "/a", "./a", "a/../b", "x\n", "loss[%]", "é", "🙂", "a" * 300,
    "a/" * 200, "a@b", "tab\t", "\0", " ", "..0", ".../a",
]  # fmt: skip


@functools.cache
def mlflow_rules():
    """MLflow's own checks of names. To import them takes seconds, so only tests that need them do."""
    pytest.importorskip("mlflow")
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

    return _validate_metric_name, _validate_param_name, _validate_tag_name


def assert_taken(key):
    for validate in mlflow_rules():
        validate(key)
    assert len(key) <= 250


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=600) | st.text("/.a-", max_size=20))
def test_every_name_becomes_one_that_mlflow_takes(name):
    for key in (mlflow_key(name), text_key(name), tag_key("tracker.renamed", mlflow_key(name))):
        assert_taken(key)


@pytest.mark.parametrize("name", ["loss", "loss/mean", "train/acc top-1", "a.b:c", "x" * 250, "größe"])
def test_a_name_that_mlflow_takes_stays(name):
    assert mlflow_key(name) == name


def test_names_that_are_refused_stay_apart_and_readable():
    keys = [mlflow_key(name) for name in AWKWARD]
    assert len(set(keys)) == len(AWKWARD)
    for key in keys:
        assert_taken(key)
    assert mlflow_key("loss[%]").startswith("loss___-")
    assert mlflow_key("loss[%]") == mlflow_key("loss[%]")
    assert mlflow_key("loss[%]") != mlflow_key("loss(%)")


def test_texts_cannot_take_the_tags_that_mlflow_and_the_tracker_set():
    assert text_key("phase") == "phase"
    assert text_key("mlflow.user") == "text/mlflow.user"
    assert text_key("tracker.run_uid") == "text/tracker.run_uid"


def test_the_own_value_stands_at_local_beside_aggregates_and_stays_there():
    names = MetricKeys()
    assert names.of(["lr"]) == ["lr"]
    assert names.of(["loss", "loss/mean", "loss/min", "loss/rank8"]) == [
        "loss/local", "loss/mean", "loss/min", "loss/rank8",
    ]  # fmt: skip
    assert names.of(["loss", "lr"]) == ["loss/local", "lr"]
    assert MetricKeys(sorted(names.aggregated)).of(["loss"]) == ["loss/local"]


def test_a_count_alone_makes_no_aggregate_and_a_scripts_own_local_is_kept_apart():
    names = MetricKeys()
    assert names.of(["tokens", "tokens/count"]) == ["tokens", "tokens/count"]
    own, theirs = names.of(["loss", "loss/local", "loss/mean"])[:2]
    assert own == "loss/local"
    assert theirs != own
    assert_taken(theirs)


@pytest.mark.parametrize(
    ("asked", "project", "name"),
    [
        (None, "my.project", "my-project"), ("v1.2", "p", "v1-2"), ("", "p", "p"), (None, "", "tracker"),
        ("/Users/me@x.org/e", "p", "/Users/me@x.org/e"), ("  e ", "p", "e"), ("e" * 900, "p", "e" * 500),
    ],
)  # fmt: skip
def test_the_experiment_is_what_was_asked_else_the_project_with_hyphens_for_dots(asked, project, name):
    assert experiment_name(asked, project) == name


def test_a_nested_configuration_is_flattened_by_dots_with_texts_as_values():
    config = {"model": {"width": 3, "opt": {"lr": 0.1}}, "tags": ["a", 1], "none": None, "empty": {}}
    assert dict(flatten(config, "config")) == {
        "config.model.width": "3",
        "config.model.opt.lr": "0.1",
        "config.tags": "['a', 1]",
        "config.none": "None",
        "config.empty": "{}",
    }


def block(rows, columns, **changes):
    fields = {
        "first_ordinal": 1, "attempt": 1, "columns": tuple(f"m{n}" for n in range(columns)),
        "steps": np.arange(rows), "occurrences": np.zeros(rows, np.int64),
        "times_ns": np.full(rows, 5_000_000_000), "values": np.zeros((rows, columns)),
    }  # fmt: skip
    return RecordBlock(**{**fields, **changes})


def test_requests_have_at_most_a_thousand_metrics_in_order_and_none_is_lost():
    wanted = block(700, 3)
    requests = list(metric_requests(wanted, wanted.columns))
    assert [len(request) for request in requests] == [1000, 1000, 100]
    points = [(metric.step, metric.key) for request in requests for metric in request]
    assert points == [(step, key) for step in range(700) for key in wanted.columns]


def test_requests_with_long_keys_stay_below_a_megabyte():
    keys = [f"{n}{'é' * 240}" for n in range(4)]
    wanted = block(500, 4)
    requests = list(metric_requests(wanted, keys))
    assert sum(len(request) for request in requests) == 2000
    assert all(len(request) < 1000 for request in requests)
    assert max(len(request) * 240 * 6 for request in requests) < limits.MLFLOW_REQUEST_MAX_BYTES


def test_equal_values_at_one_step_within_a_millisecond_stay_two_points():
    wanted = block(2, 1, steps=np.zeros(2, np.int64), occurrences=np.arange(2))
    (request,) = metric_requests(wanted, ["x"])
    assert [(metric.step, metric.value, metric.timestamp) for metric in request] == [
        (0, 0, 5000),
        (0, 0, 5001),
    ]


def test_a_cell_that_is_not_there_makes_no_point():
    wanted = block(2, 2, valid=np.array([[True, False], [False, True]]))
    (request,) = metric_requests(wanted, ["a", "b"])
    assert [(metric.step, metric.key) for metric in request] == [(0, "a"), (1, "b")]


def test_params_and_tags_go_by_the_hundred_and_below_a_megabyte():
    small = list(pair_requests(((f"k{n}", "v") for n in range(250)), lambda *pair: pair))
    assert [len(request) for request in small] == [100, 100, 50]
    large = list(pair_requests(((f"k{n}", "é" * 6000) for n in range(100)), lambda *pair: pair))
    assert sum(len(request) for request in large) == 100
    assert max(len(request) for request in large) * 36_000 < limits.MLFLOW_REQUEST_MAX_BYTES


def test_a_long_params_whole_value_is_in_tags():
    text = "".join(str(n % 10) for n in range(12_345))
    assert len(param_value(text)) == 6000
    tags = dict(whole_value_tags("config.text", text))
    assert "".join(tags[f"tracker.whole_param.config.text.{n}"] for n in (1, 2, 3)) == text
    assert list(whole_value_tags("config.text", "short")) == []
