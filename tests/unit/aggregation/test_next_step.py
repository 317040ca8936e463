"""Where a rank's automatic steps go on after a resume."""

from __future__ import annotations

import numpy as np

from tracker_daemon.aggregation.root.fold import RootFold
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.values.batch import DecodedBatch, NodeReport, Rows
from tracker_daemon.aggregation.values.contribution import NO_STEP, Progress


def rows(key: int, steps: list[int], numbers: list[int]) -> Rows:
    values, times_ns = np.zeros((len(steps), 1)), np.zeros(len(steps), np.int64)
    return Rows((key,), np.array(steps), times_ns, np.array(numbers), values, automatic_steps=False)


def test_it_follows_the_row_that_was_logged_last_whatever_the_order_of_the_blocks():
    fold = RootFold(Rules())
    stream = b"s" * 16
    fold.hello(stream, 0, 1, 1, ("loss", "eval/loss"), 0)
    blocks = (rows(0, [7, 8, 9], [0, 2, 4]), rows(1, [1, 2], [1, 3]))
    fold.batch(stream, DecodedBatch(rows=blocks), 50)
    assert fold.steps.next_step == {0: 10}


def progress_of(last_steps: dict[int, int]) -> DecodedBatch:
    """What a node's daemon says of its ranks, all of which have flushed."""
    ranks, steps = np.array(list(last_steps)), np.array(list(last_steps.values()))
    progress = Progress(1, ranks, steps, steps, np.ones(len(ranks), np.bool_))
    return DecodedBatch(forwarded=NodeReport((), (), (progress,), (), ()))


def test_a_rank_of_a_node_that_has_flushed_and_logged_nothing_has_no_step():
    fold, node = RootFold(Rules()), b"n" * 16
    for rank in range(2):
        fold.hello(bytes([rank]) * 16, rank, 2, 1, (), 0)
    fold.hello(node, -1, 0, 1, (), 0)
    fold.batch(node, progress_of({0: NO_STEP, 1: NO_STEP}), 50)
    assert fold.next_automatic_step(0, 2) == 0
    fold.batch(node, progress_of({0: NO_STEP, 1: 6}), 60)
    assert (fold.next_automatic_step(0, 1), fold.next_automatic_step(0, 2)) == (0, 7)
    assert fold.summary().last_step == {1: 6}
