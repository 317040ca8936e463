"""Columns: no two metrics share one, and a repeated delivery or a restart uses the same ones."""

from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.backends.column_names import ColumnNames
from tracker_daemon.backends.csv.format import column_name, is_contested
from tracker_daemon.backends.wandb.rows import names_of_run

METRICS = st.sampled_from(
    [
        "step",
        "step/local",
        "attempt",
        "attempt/local",
        "loss",
        "_step",
        "logged_step",
        "a\nb",
        "a\\nb",
        "a\rb",
    ]
)


def csv_names(owners=None):
    return ColumnNames(column_name, owners, is_contested=is_contested)


@given(st.lists(METRICS, max_size=12), st.integers(0, 12))
def test_no_two_metrics_share_a_column_over_a_restart(metrics, at):
    for make in (csv_names, names_of_run):
        first = make()
        columns = {metric: first.of(metric) for metric in metrics[:at]}
        second = make(first.owners)
        columns |= {metric: second.of(metric) for metric in metrics}
        assert len(set(columns.values())) == len(columns)
        assert all(first.of(metric) == columns[metric] for metric in metrics[:at])


def test_only_a_metric_whose_column_is_taken_gets_a_hash():
    names = csv_names()
    assert [names.of(metric) for metric in ("step/local", "loss", "a\nb")] == ["step/local", "loss", "a\\nb"]
    assert names.of("step").startswith("step/local-")
    assert names.of("a\\nb").startswith("a\\nb-")
    assert csv_names().of("step") == "step/local"
