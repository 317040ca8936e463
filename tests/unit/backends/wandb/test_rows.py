"""W&B's own step: above that of the row before, the training step where that rises, the same on a repeat."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.aggregation.shared.histograms import HistogramRow
from tracker_daemon.aggregation.values.record import AxisColumn, RecordBlock, TextCell
from tracker_daemon.backends.wandb.rows import NO_STEP, histogram_row, wandb_name, wandb_rows

STEPS = st.lists(st.integers(-5, 30), max_size=30)


def block(steps, columns=("loss",), valid=None, texts=()):
    n = len(steps)
    values = np.arange(n * len(columns), dtype=np.float64).reshape(n, len(columns))
    zeros = np.zeros(n, np.int64)
    return RecordBlock(1, 1, columns, np.array(steps, np.int64), zeros, values, valid, texts)


def own_steps(steps, last=NO_STEP):
    return [row.step for row in wandb_rows(block(steps), last)]


@given(STEPS)
def test_it_rises_strictly_and_is_never_below_the_training_step(steps):
    own = own_steps(steps)
    assert all(later > earlier for earlier, later in zip([NO_STEP, *own], own, strict=False))
    assert all(ours >= theirs for ours, theirs in zip(own, steps, strict=True))


@given(st.sets(st.integers(0, 1000)))
def test_it_is_the_training_step_while_that_rises(steps):
    assert own_steps(sorted(steps)) == sorted(steps)


@given(STEPS, st.integers(0, 30))
def test_it_does_not_depend_on_how_the_records_are_cut_into_deliveries(steps, at):
    first = own_steps(steps[:at])
    assert first + own_steps(steps[at:], first[-1] if first else NO_STEP) == own_steps(steps)


def test_a_row_has_the_cells_that_are_there_its_texts_its_step_and_its_time():
    valid = np.array([[True, False], [True, True]])
    rows = list(wandb_rows(block([3, 4], ("a", "b"), valid, (TextCell(1, "note", "x"),)), NO_STEP))
    assert rows[0].values == {"a": 0.0, "step": 3, "_timestamp": 0.0}
    assert rows[1].values == {"a": 2.0, "b": 3.0, "note": "x", "step": 4, "_timestamp": 0.0}


def test_a_row_has_an_axis_value_only_beside_values_over_that_axis():
    valid = np.array([[True, False], [False, True], [False, False]])
    records = block([3, 4, 5], ("loss", "val"), valid, (TextCell(2, "note", "x"),))
    epochs = AxisColumn("epoch", (1,), np.array([7.0, 8.0, 9.0]), ("note",))
    rows = [row.values for row in wandb_rows(replace(records, axes=(epochs,)), NO_STEP)]
    assert [row.get("epoch") for row in rows] == [None, 8.0, 9.0]


def test_a_metric_never_takes_a_name_that_wandb_or_the_axis_has():
    assert wandb_name("step") == "step/local"
    assert wandb_name("_step") == "logged_step"
    assert wandb_name("loss/mean") == "loss/mean"


def histograms(**documents):
    texts = {
        key: document if isinstance(document, str) else json.dumps(document)
        for key, document in documents.items()
    }
    return HistogramRow(1, 7, 2_000_000_000, texts)


def test_a_histogram_is_spelled_as_wandb_spells_its_own():
    wandb = pytest.importorskip("wandb")
    counts, edges = np.histogram([1.0, 2.0, 2.0, 4.0], bins=3)
    for spelled in (edges.tolist(), [edges[0], edges[-1]]):
        row = histogram_row(histograms(h={"edges": spelled, "counts": counts.tolist()}), 3)
        assert row.values["h"] == wandb.Histogram(np_histogram=(counts, edges)).to_json()


def test_histograms_have_their_step_and_time_and_a_step_of_wandb_above_the_last():
    row = histogram_row(histograms(step={"edges": [0, 1], "counts": [2]}), 9)
    assert row.step == 10
    assert row.values["step"] == 7
    assert row.values["_timestamp"] == 2.0
    assert "step/local" in row.values


@pytest.mark.parametrize(
    "document",
    [
        "[]",
        "{",
        "{}",
        '{"edges": [0], "counts": [1]}',
        '{"edges": [0, 1, 2], "counts": [1]}',
        '{"edges": "x"}',
    ],
)
def test_what_is_no_histogram_is_a_value_error(document):
    with pytest.raises(ValueError):  # noqa: PT011 - what the backend takes for a poisoned entry
        histogram_row(histograms(h=document), 0)
