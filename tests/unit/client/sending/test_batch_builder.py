"""The sender's batches: what a rank's user is told of values that they cannot hold."""

from __future__ import annotations

import pytest

from tracker_client.sending.batch_builder import BatchBuilder
from tracker_client.staging.buffer import StagingBuffer
from tracker_client.values.refusals import Refusals

BUDGET = 1 << 16
ROWS = 10_000


@pytest.fixture
def sender():
    """A buffer, the batches from it, and the warnings; no daemon acknowledges anything."""
    warnings: list[str] = []
    staging = StagingBuffer(BUDGET, lambda: None)
    batches = BatchBuilder(staging, Refusals(warn=warnings.append), BUDGET)
    batches.begin(0, records_items=True)
    return staging, batches, warnings


def log(staging, rows=ROWS):
    for number in range(rows):
        staging.rows.append((None, 0, {"x": float(number)}, True))
        if len(staging.rows) > staging.limit:
            staging.make_room()


def test_values_that_are_dropped_from_a_full_buffer_are_told_with_their_number(sender):
    staging, batches, warnings = sender
    log(staging)
    batches.drain(lambda: None)
    (warning,) = warnings
    assert f"the buffer of {BUDGET:,} bytes (buffer_bytes) is full" in warning
    assert f"({staging.dropped_points} values so far)" in warning


def test_batches_that_are_given_up_while_the_daemon_is_away_are_told(sender):
    staging, batches, warnings = sender
    while not batches.unacknowledged.lost_points:
        log(staging, rows=10)
        batches.drain(lambda: None)
        batches.close_batch()
    assert staging.dropped_points == 0
    (warning,) = warnings
    assert "the oldest values are dropped" in warning


def test_a_rank_whose_values_all_fit_warns_of_nothing(sender):
    staging, batches, warnings = sender
    log(staging, rows=20)
    batches.drain(lambda: None)
    batches.close_batch()
    assert warnings == []
