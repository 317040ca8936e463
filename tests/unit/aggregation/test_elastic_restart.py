"""An attempt has its own world size."""

from __future__ import annotations

from tracker_daemon.aggregation.root.fold import RootFold
from tracker_daemon.aggregation.shared.rules import Rules


def stream(rank: int, attempt: int) -> bytes:
    return bytes([rank, attempt]) * 8


def test_an_attempt_with_fewer_ranks_waits_for_those_alone():
    fold = RootFold(Rules())
    for rank in range(4):
        fold.hello(stream(rank, 1), rank, 4, 1, (), 0)
    assert fold.attempt.membership.expected() == {0, 1, 2, 3}
    fold.settle(1)
    for rank in range(2):
        fold.hello(stream(rank, 2), rank, 2, 2, (), 0)
    assert fold.attempt.membership.expected() == {0, 1}
    # A straggler of the first attempt that connects again changes nothing in the second.
    fold.hello(stream(3, 1), 3, 4, 1, (), 0)
    assert fold.attempt.membership.expected() == {0, 1}
