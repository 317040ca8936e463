"""Events that only one kind of fold has: to the other kind they change nothing."""

from __future__ import annotations

import pytest

from tracker_daemon.aggregation.node import snapshot as node_snapshot
from tracker_daemon.aggregation.node.fold import NodeFold
from tracker_daemon.aggregation.root import snapshot
from tracker_daemon.aggregation.root.fold import RootFold
from tracker_daemon.aggregation.shared.fold import Fold
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.journal.event import EventKind
from tracker_daemon.recording import events
from tracker_daemon.wire.batches import encode_batch

STREAM = bytes(16)
FORWARD_ALL = events.encode(int(events.ForwardExtent.EVERYTHING))


def opened(fold: Fold) -> Fold:
    hello = events.HelloEvent(0, 2, 1, ("loss",))
    events.apply(fold, EventKind.HELLO, STREAM, events.encode(hello), 1)
    fold.settle(1)
    return fold


def state(fold: Fold) -> bytes:
    if isinstance(fold, NodeFold):
        return node_snapshot.dump(fold, encode_batch)
    assert isinstance(fold, RootFold)
    return snapshot.dump(fold)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (EventKind.FORWARD, FORWARD_ALL),
        (EventKind.ENDED_BY_ROOT, events.encode(events.RunEndedEvent("FINISHED", ""))),
        (EventKind.FLUSHES_WANTED, events.encode(1)),
    ],
)
def test_an_event_of_a_node_changes_nothing_at_a_root(kind: EventKind, payload: bytes) -> None:
    fold = opened(RootFold(Rules()))
    before = state(fold)
    events.apply(fold, kind, b"", payload, 2)
    assert state(fold) == before
    assert not fold.over()


def test_a_node_has_no_timers_that_a_start_could_restart() -> None:
    fold = opened(NodeFold(Rules()))
    before = state(fold)
    events.apply(fold, EventKind.STARTED, b"", b"", 2)
    assert state(fold) == before


def test_a_lost_journal_is_told_at_both_and_moves_ordinals_at_the_root_alone() -> None:
    notice = events.encode(events.NoticeEvent("the journal has lost something", journal_lost=True))
    root, node = opened(RootFold(Rules())), opened(NodeFold(Rules()))
    for fold in (root, node):
        events.apply(fold, EventKind.NOTICE, b"", notice, 2)
        assert fold.settle(2).notices == ("the journal has lost something",)
    assert isinstance(root, RootFold)
    assert root.emitter.next_ordinal > 2**31
