"""Names that MLflow accepts, by MLflow's own rules."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker_daemon.backends.mlflow.names import (
    MetricKeys,
    experiment_name,
    mlflow_key,
    number_in,
    params_of,
    text_key,
)
from tracker_daemon.backends.mlflow.requests import (
    tag_key,
)

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
def test_every_name_becomes_one_that_mlflow_accepts(name):
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


@pytest.mark.parametrize("name", ["loss[%]", "a\nb", "x" * 248, "é%/é"])
def test_a_metric_and_its_aggregates_have_the_same_hash(name):
    suffixes = ["/mean", "/min", "/max", "/std", "/count", "/rank8", "/local"]
    keys = [mlflow_key(name + suffix) for suffix in suffixes]
    (stem,) = {key.removesuffix(suffix) for key, suffix in zip(keys, suffixes, strict=True)}
    assert mlflow_key(name) in {stem, name}
    for key in keys:
        assert_taken(key)


def test_two_values_of_a_configuration_never_share_a_param():
    config = {"a.b": 1, "a": {"b": 2, "c": 3}, "d.e": {"f": 4}, "d": {"e.f": 5}}
    params = params_of(config, "config")
    assert {param.name for param in params if param.value in "234"} == {
        "config.a.b", "config.a.c", "config.d.e.f",
    }  # fmt: skip
    assert len({mlflow_key(param.name) for param in params}) == 5
    assert [param.path for param in params if param.path] == ['["config", "a.b"]', '["config", "d", "e.f"]']


@pytest.mark.parametrize(
    ("text", "number"),
    [("1.5", 1.5), ("-3", -3.0), (" 1e3 ", 1000.0), ("0", 0.0)],
)
def test_a_text_that_float_takes_is_a_number(text, number):
    assert number_in(text) == number


@pytest.mark.parametrize(
    "text", ["", "x", "nan", "inf", "-Infinity", "1e999", "1_000", "0x10", "True", "1,5"]
)
def test_other_texts_and_numbers_that_are_not_finite_stay_texts(text):
    assert number_in(text) is None


def test_texts_cannot_take_the_tags_that_mlflow_and_the_tracker_set():
    assert text_key("phase") == "phase"
    assert text_key("mlflow.user") == "text/mlflow.user"
    assert text_key("tracker.run_uid") == "text/tracker.run_uid"


def test_the_own_value_is_plain_beside_aggregates():
    columns = ["loss", "loss/mean", "loss/local", "loss/rank8"]
    assert MetricKeys().of(columns) == columns


def test_the_own_value_may_be_stored_at_local_beside_aggregates_and_stays_there():
    names = MetricKeys(local=True)
    assert names.of(["lr"]) == ["lr"]
    assert names.of(["loss", "loss/mean", "loss/min", "loss/rank8"]) == [
        "loss/local", "loss/mean", "loss/min", "loss/rank8",
    ]  # fmt: skip
    assert names.of(["loss", "lr"]) == ["loss/local", "lr"]
    assert MetricKeys(sorted(names.aggregated), local=True).of(["loss"]) == ["loss/local"]


def test_a_count_alone_makes_no_aggregate_and_a_scripts_own_local_is_kept_apart():
    names = MetricKeys(local=True)
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
    assert {param.name: param.value for param in params_of(config, "config")} == {
        "config.model.width": "3",
        "config.model.opt.lr": "0.1",
        "config.tags": "['a', 1]",
        "config.none": "None",
        "config.empty": "{}",
    }
