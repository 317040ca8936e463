"""Where a rank's automatic steps go on after a resume."""

from __future__ import annotations

import numpy as np

from tracker_daemon.aggregation.batch import DecodedBatch, Rows
from tracker_daemon.aggregation.fold import RunFold
from tracker_daemon.aggregation.rules import Rules


def rows(key: int, steps: list[int], times_ns: list[int]) -> Rows:
    values = np.zeros((len(steps), 1))
    return Rows((key,), np.array(steps), np.array(times_ns), values, automatic_steps=False)


def test_it_follows_the_row_that_was_logged_last_whatever_the_order_of_the_blocks():
    fold = RunFold(Rules())
    stream = b"s" * 16
    fold.hello(stream, 0, 1, 1, ("loss", "eval/loss"))
    blocks = (rows(0, [7, 8, 9], [10, 20, 40]), rows(1, [1, 2], [15, 30]))
    fold.batch(stream, DecodedBatch((), blocks, (), (), 0, False, None, 5), 50)
    assert fold.next_step == {0: 10}
