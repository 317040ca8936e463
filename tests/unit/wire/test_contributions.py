"""Contributions and progress: what a node's daemon encodes, the root decodes; the rest is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_daemon.aggregation.numbers.summary import summarize
from tracker_daemon.aggregation.values.contribution import NO_STEP, Contribution, Progress
from tracker_daemon.errors import MalformedBatch
from tracker_daemon.wire.contributions import (
    decode_contribution,
    decode_progress,
    encode_contribution,
    encode_progress,
)
from tracker_protocol import limits
from tracker_protocol.kinds import Kind
from tracker_protocol.v1 import tracker_pb2 as pb

STEPS, TIMES, BARS = np.array([7, 3, 3]), np.array([10, 20, 30]), np.array([7, 7, 9])
OCCURRENCES = np.array([0, 1, limits.OCCURRENCES_PER_STEP_MAX - 1])
KINDS = np.array([[Kind.INT, Kind.FLOAT], [Kind.INT, Kind.BOOL], [Kind.FLOAT, Kind.FLOAT]], np.uint8)


def contribution(*ranks: int) -> Contribution:
    """Three rows of two metrics."""
    values = np.arange(6 * len(ranks), dtype=float).reshape(3, len(ranks), 2)
    alone, who = len(ranks) == 1, np.array(ranks)
    return Contribution(
        2, who, (1, 0), STEPS, OCCURRENCES, TIMES, BARS,
        values[:, 0] if alone else None,
        None if alone else summarize(values, np.ones(values.shape, np.bool_), who),
        np.array([4, 6, 9]) if alone else None,
        KINDS if alone else np.minimum(KINDS, 1),
    )  # fmt: skip


def test_the_values_of_one_rank_keep_their_rows_and_kinds() -> None:
    sent = contribution(5)
    got = decode_contribution(encode_contribution(sent), 2)
    assert (got.attempt, got.ranks.tolist(), got.keys) == (2, [5], (1, 0))
    for name in ("steps", "occurrences", "times_ns", "bars", "values", "row_numbers", "kinds"):
        assert np.array_equal(getattr(got, name), getattr(sent, name)), name


def test_a_summary_has_kinds_and_bars_and_no_rows() -> None:
    sent = contribution(5, 9)
    got = decode_contribution(encode_contribution(sent), 2)
    assert got.row_numbers is None
    assert np.array_equal(got.bars, BARS)
    assert np.array_equal(got.kinds, np.minimum(KINDS, 1))
    assert np.array_equal(got.summary.mean, sent.summary.mean)


def test_a_part_has_its_own_rows_and_columns_of_each_field() -> None:
    part = contribution(5).part(slice(1, 3), slice(0, 1))
    assert (part.bars.tolist(), part.row_numbers.tolist()) == ([7, 9], [6, 9])
    assert part.kinds.tolist() == [[Kind.INT], [Kind.FLOAT]]


def test_rows_that_are_unknown_and_kinds_that_are_floats_take_no_bytes() -> None:
    message = encode_contribution(contribution(5).part(slice(2, 3), slice(None)))
    assert message.kinds == b""
    message.rows = b""
    assert decode_contribution(message, 2).row_numbers is None


@pytest.mark.parametrize(
    "fields",
    [
        {"bars": b""},
        {"bars": np.array([6, 7, 9], "<i8").tobytes()},
        {"bars": np.array([7, 7, limits.STEP_MAX + 1], "<i8").tobytes()},
        {"rows": bytes(16)},
        {"rows": np.array([-1, 0, 1], "<i8").tobytes()},
        {"kinds": b"\1"},
        {"kinds": b"\3\0"},
        {"occurrences": bytes(3)},
        {"occurrences": np.array([0, 0, 0], "<u2").tobytes()},
    ],
    ids=str,
)
def test_a_contribution_with_fields_that_do_not_fit_is_refused(fields: dict[str, bytes]) -> None:
    message = encode_contribution(contribution(5))
    for name, value in fields.items():
        setattr(message, name, value)
    with pytest.raises(MalformedBatch):
        decode_contribution(message, 2)


def test_a_summary_with_rows_is_refused() -> None:
    message = encode_contribution(contribution(5, 9))
    message.rows = bytes(24)
    with pytest.raises(MalformedBatch, match="the rows of one"):
        decode_contribution(message, 2)


def test_progress_has_the_last_and_the_highest_step_of_each_rank() -> None:
    last, highest = np.array([3, NO_STEP]), np.array([9, NO_STEP])
    got = decode_progress(
        encode_progress(Progress(1, np.array([0, 4]), last, highest, np.array([True, False])))
    )
    assert (got.last_steps.tolist(), got.highest_steps.tolist()) == (last.tolist(), highest.tolist())
    assert got.flushed.tolist() == [True, False]


@pytest.mark.parametrize("highest", [b"", bytes(16)], ids=["none", "two"])
def test_progress_with_highest_steps_that_cannot_be_is_refused(highest: bytes) -> None:
    rank, last = np.array([0], "<u4").tobytes(), np.array([3], "<i8").tobytes()
    with pytest.raises(MalformedBatch):
        decode_progress(
            pb.Progress(attempt=1, ranks=rank, last_steps=last, highest_steps=highest, flushed=b"\0")
        )
