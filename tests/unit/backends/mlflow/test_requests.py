"""Requests of a size that MLflow accepts: none too large, and no point lost."""

import numpy as np
import pytest

from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.mlflow.requests import (
    metric_requests,
    pair_requests,
    param_value,
    whole_value_tags,
)
from tracker_protocol import limits


@pytest.fixture(autouse=True)
def _mlflow():
    pytest.importorskip("mlflow")


def block(rows, columns, **changes):
    fields = {
        "first_ordinal": 1, "attempt": 1, "columns": tuple(f"m{n}" for n in range(columns)),
        "steps": np.arange(rows),
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


def test_equal_values_at_one_step_are_two_points_at_the_times_of_their_records():
    times_ns = np.array([5_000_000_000, 5_001_000_000])
    wanted = block(2, 1, steps=np.zeros(2, np.int64), times_ns=times_ns)
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
