"""Thinning: what stays, that it is the same however it is delivered, and that the books say what does not."""

from __future__ import annotations

import math
import uuid
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.waiting import wait_until
from tracker_daemon.aggregation.values.record import AxisColumn, RecordBlock, TextCell
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.memory import MemoryBackend
from tracker_daemon.delivery.pump import Pump, PumpTiming
from tracker_daemon.delivery.thinned_backend import ThinnedBackend, thinned, thinned_so_far
from tracker_daemon.delivery.thinning import Thinned, Thinner, ThinningRules
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_daemon.rules.metric_rules import MetricSettings, read_thinning
from tracker_protocol.kinds import Kind

SECOND = 1_000_000_000
END = b'{"status": "FINISHED"}'


def records(step, values, times_s=None, columns=("loss",), valid=None, texts=()):
    values = np.array(values, float).reshape(len(values), -1)
    n = len(values)
    times = np.array([step + i for i in range(n)] if times_s is None else times_s) * SECOND
    steps = np.arange(step, step + n)
    return RecordBlock(step, 1, columns, steps, times.astype(np.int64), values, valid, texts)


def outbox(*blocks, end=True):
    entries = [OutboxEntry(i, EntryKind.RECORDS, block.to_bytes()) for i, block in enumerate(blocks, 1)]
    return [*entries, OutboxEntry(len(entries) + 1, EntryKind.END, END)] if end else entries


def thinner(text):
    return Thinner(ThinningRules(read_thinning(text, "mlflow")))


def cells(entries):
    """(column, step, value) of all that stays; NaN as a text, so that it equals itself."""
    found = []
    for entry in entries:
        if entry.kind is not EntryKind.RECORDS:
            continue
        block = RecordBlock.from_bytes(entry.payload)
        valid = np.ones(block.values.shape, bool) if block.valid is None else block.valid
        for i, j in np.argwhere(valid).tolist():
            value = float(block.values[i, j])
            found.append((block.columns[j], int(block.steps[i]), "nan" if math.isnan(value) else value))
    return found


def test_each_nth_value_of_each_column_stays():
    kept = thinner("mlflow:loss=3").thin(outbox(records(0, range(5)), records(5, range(5))), Thinned())
    assert [step for _, step, _ in cells(kept)] == [0, 3, 6, 9]
    sparse = records(
        0, [[1, 2]] * 4, columns=("a", "b"), valid=np.array([[1, 0], [1, 1], [1, 0], [1, 1]], bool)
    )
    kept = thinner("mlflow:*=2").thin(outbox(sparse), Thinned())
    assert cells(kept) == [("a", 0, 1.0), ("b", 1, 2.0), ("a", 2, 1.0)]


def test_a_window_keeps_its_first_last_least_and_greatest_value():
    values = [5, 1, 9, 5, 5, 5, 2, 2, 8, 2]
    block = records(0, values, times_s=[0, 1, 2, 3, 4, 10, 11, 12, 13, 14])
    so_far = Thinned()
    kept = thinner("mlflow:*=10s").thin(outbox(block), so_far)
    assert [step for _, step, _ in cells(kept)] == [0, 1, 2, 4, 5, 6, 8, 9]
    assert (so_far.records, so_far.points) == (2, 2)


def test_what_is_not_finite_stays_in_sight():
    block = records(0, [1, math.nan, 2, math.nan, math.inf, 1, -math.inf, 1], times_s=[0] * 8)
    kept = thinner("mlflow:*=1s").thin(outbox(block), Thinned())
    assert [step for _, step, _ in cells(kept)] == [0, 1, 4, 6, 7]


def test_texts_and_other_metrics_stay_and_an_axis_goes_with_its_metric():
    columns = ("loss", "epoch", "kept")
    valid = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0]], bool)
    block = records(
        0, [[i, i, i] for i in range(4)], columns=columns, valid=valid, texts=(TextCell(3, "t", "x"),)
    )
    epochs = AxisColumn("epoch", (2,), block.values[:, 1], ("t",))
    block = replace(block, axes=(epochs,), summaries=(("max", (0, 2)),))
    kept = thinner("mlflow:kept=none,mlflow:*=10").thin(outbox(block), Thinned())
    assert cells(kept) == [("loss", 0, 0.0), ("epoch", 0, 0.0), ("epoch", 2, 2.0), ("kept", 2, 2.0)]
    (texts,) = [RecordBlock.from_bytes(entry.payload) for entry in kept[:1]]
    assert [(int(texts.steps[cell.row]), cell.value) for cell in texts.texts] == [(3, "x")]
    assert [(axis.values.tolist(), axis.columns, axis.texts) for axis in texts.axes] == [
        ([0, 2, 3], (2,), ("t",))
    ]
    assert texts.summaries == (("max", (0, 2)),)


def test_numbers_that_stay_keep_their_kinds():
    kinds = np.array([[Kind.INT], [Kind.FLOAT], [Kind.BOOL]], np.uint8)
    block = replace(records(0, [1.0, 2.0, 0.0]), kinds=kinds)
    (kept, _) = thinner("mlflow:loss=2").thin(outbox(block), Thinned())
    block = RecordBlock.from_bytes(kept.payload)
    assert [(float(value), kind) for (value,), (kind,) in zip(block.values, block.kinds, strict=True)] == [
        (1.0, Kind.INT), (0.0, Kind.BOOL),
    ]  # fmt: skip


def test_entries_wait_until_their_window_is_over():
    rules = thinner("mlflow:*=10s")
    entries = outbox(*(records(i, [i]) for i in range(25)), end=False)
    assert rules.count_decided(entries[:5]) == 0
    assert rules.count_decided(entries[:11]) == 10
    assert rules.count_decided(entries) == 20
    assert rules.count_decided([*entries, OutboxEntry(26, EntryKind.END, END)]) == 26


def test_much_in_one_window_is_decided_before_it_is_over():
    wide = records(0, np.zeros((200, 400)), times_s=[0] * 200, columns=tuple(map(str, range(400))))
    entries = [OutboxEntry(i, EntryKind.RECORDS, wide.to_bytes()) for i in range(1, 4)]
    assert thinner("mlflow:*=10s").count_decided(entries) == 2


streams = st.lists(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, -2.0, 5.5, math.nan, math.inf])),
        min_size=1,
        max_size=6,
    ),
    min_size=1,
    max_size=12,
)


def played(stream):
    """Entries of (seconds since the value before, value)."""
    step, time_s, blocks = 0, 0, []
    for block in stream:
        times = []
        for gap, _ in block:
            time_s += gap
            times.append(time_s)
        blocks.append(records(step, [value for _, value in block], times))
        step += len(block)
    return outbox(*blocks)


@given(stream=streams, how=st.sampled_from(["2s", "7s", "3"]), cuts=st.lists(st.integers(0, 12)))
@settings(deadline=None, max_examples=120)
def test_however_it_is_sliced_the_same_stays_and_extremes_do(stream, how, cuts):
    entries, text = played(stream), f"mlflow:*={how}"
    whole = Thinned()
    at_once = cells(thinner(text).thin(entries, whole))
    so_far, got, position = Thinned(), [], 0
    for more in [*sorted(min(cut, len(entries)) for cut in cuts), len(entries)]:
        ready = thinner(text).count_decided(entries[position:more])  # each time as after a restart
        got += cells(thinner(text).thin(entries[position : position + ready], so_far))
        position += ready
    assert position == len(entries)
    assert got == at_once
    assert so_far == whole
    everything = cells(entries)
    assert len(everything) == len(at_once) + whole.points
    if how.endswith("s"):
        assert_extremes_stay(stream, at_once, int(how[:-1]))


def assert_extremes_stay(stream, kept, window_s):
    time_s, points = 0, []
    for step, (gap, value) in enumerate(pair for block in stream for pair in block):
        time_s += gap
        points.append((time_s // window_s, step, value))
    there = {step for _, step, _ in kept}
    for _, points_of_window in groupby(points, lambda point: point[0]):
        window = list(points_of_window)
        assert {window[0][1], window[-1][1]} <= there
        numbers = [value for _, _, value in window if not math.isnan(value)]
        seen = [value for _, step, value in window if step in there and not math.isnan(value)]
        if numbers:
            assert (min(seen), max(seen)) == (min(numbers), max(numbers))


# ---- delivered -----------------------------------------------------------------------------------


class Journal:
    """An outbox and the last committed cursor."""

    def __init__(self, entries):
        self.entries, self.cursor = entries, (0, b"", 0, 0)

    def read(self, after):
        return self.entries[after : after + 3]

    def commit(self, *cursor):
        self.cursor = cursor


def described(text):
    metrics = MetricSettings(thinning=text)
    return RunDescription(uuid.uuid4().hex, "project", "name", Path("/nowhere"), metrics=metrics)


class Named(MemoryBackend):
    name = "mlflow"


def test_a_backend_without_rules_is_not_wrapped():
    backend = Named()
    assert thinned(backend, described("csv:*=5,mlflow:*=none"), "mlflow") is backend
    assert isinstance(thinned(backend, described("mlflow:*=5"), "mlflow"), ThinnedBackend)


def test_a_pump_delivers_what_stays_and_the_cursor_says_what_does_not():
    entries = outbox(*(records(i, [i]) for i in range(25)))
    journal, run, inner = Journal(entries), described("mlflow:*=10s"), Named()
    pump = Pump(
        thinned(inner, run, "mlflow"),
        run,
        read=journal.read,
        commit=journal.commit,
        timing=PumpTiming(linger_s=0.0),
    )
    pump.start()
    pump.notify()
    wait_until(lambda: pump.finished, "the pump to deliver all")
    position, state, delivered, set_aside = journal.cursor
    assert (position, delivered, set_aside) == (26, 25, 0)
    assert thinned_so_far(state) == (19, 19)
    assert thinned_so_far(b"another backend's") == (0, 0)
    assert steps_of(run) == [0, 9, 10, 19, 20, 24]


def steps_of(run):
    return [row["step"] for row in Named.runs[run.run_id].rows()]


@pytest.mark.parametrize("how", ["5", "4s"])
def test_what_is_delivered_again_after_a_crash_is_thinned_alike(how):
    entries = outbox(*(records(i, [i % 7]) for i in range(24)))
    undisturbed, run = described(f"mlflow:*={how}"), described(f"mlflow:*={how}")
    backend = thinned(Named(), undisturbed, "mlflow")
    backend.open(undisturbed, None)
    backend.deliver(entries, lambda _: None)
    backend = thinned(Named(), run, "mlflow")
    backend.open(run, None)
    state = backend.deliver(entries[:8], lambda _: None)
    backend.deliver(entries[8:16], lambda _: None)  # stored, and never committed
    backend = thinned(Named(), run, "mlflow")
    backend.open(run, state)
    state = backend.deliver(entries[8:], lambda _: None)
    assert steps_of(run) == steps_of(undisturbed)
    assert len(steps_of(run)) < 24
    assert thinned_so_far(state)[0] == 24 - len(steps_of(run))
