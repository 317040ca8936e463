"""The root as a backend: the cursor always gives the number of the next batch."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.root import LanePosition, RootBackend
from tracker_daemon.delivery.cursor import Cursor, count_records
from tracker_daemon.delivery.pump import Pump
from tracker_daemon.errors import PoisonEntry, UpstreamUnavailable
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry

RUN = RunDescription("r-1", "project", "name", Path("/nowhere"))


class FakeLane:
    """Plays the lane to the root: keeps the batches, or raises ``failure``."""

    def __init__(self):
        self.received = []
        self.current = 1
        self.failure = None
        self.trouble = ""

    def deliver(self, epoch, first, payloads):
        if self.failure is not None:
            raise self.failure
        self.received.append((epoch, first, list(payloads)))

    def epoch(self):
        return self.current

    def problem(self):
        return self.trouble

    def location(self):
        return "login:4711"


@pytest.fixture
def lane():
    return FakeLane()


def never(_):
    raise AssertionError("nothing is committed on the way")


def opened(lane, state=None, run=RUN):
    backend = RootBackend(lambda _: lane)
    backend.open(run, state)
    return backend


def batch(number, kind=EntryKind.FORWARDED):
    return OutboxEntry(number, kind, b"batch %d" % number)


def end(number):
    return OutboxEntry(number, EntryKind.END, b'{"status": "FINISHED"}')


def test_batches_are_numbered_without_gaps_over_deliveries(lane):
    backend = opened(lane)
    backend.deliver([batch(1), batch(2)], never)
    state = backend.deliver([batch(3)], never)
    assert lane.received == [(1, 1, [b"batch 1", b"batch 2"]), (1, 3, [b"batch 3"])]
    assert LanePosition.from_bytes(state) == LanePosition(1, 3)


def test_entries_that_are_no_batches_are_skipped_and_use_no_number(lane):
    backend = opened(lane)
    others = [
        OutboxEntry(number, kind, b"of this daemon alone")
        for number, kind in enumerate(EntryKind, 1)
        if kind not in (EntryKind.FORWARDED, EntryKind.FILES, EntryKind.END)
    ]
    assert len(others) >= 5
    first = backend.deliver(others, never)
    assert lane.received == []
    assert LanePosition.from_bytes(first) == LanePosition(1, 0)
    mixed = [others[0], batch(8), end(9), batch(10)]
    assert LanePosition.from_bytes(backend.deliver(mixed, never)) == LanePosition(1, 2)
    assert lane.received == [(1, 1, [b"batch 8", b"batch 10"])]


def test_the_end_alone_is_not_sent_and_leaves_the_state(lane):
    backend = opened(lane)
    state = backend.deliver([batch(1)], never)
    assert backend.deliver([end(2)], never) == state
    assert len(lane.received) == 1


def test_the_lane_for_files_has_batches_of_its_own_with_numbers_of_their_own(lane):
    opened_for = []
    backend = RootBackend(lambda run: opened_for.append(run) or lane)
    files = backend.files_backend()
    files.open(replace(RUN, files_lane=True), None)
    state = files.deliver([batch(7, EntryKind.FILES), batch(9, EntryKind.FILES)], never)
    assert RootBackend.separate_files
    assert files is not backend
    assert [run.files_lane for run in opened_for] == [True]
    assert lane.received == [(1, 1, [b"batch 7", b"batch 9"])]
    assert LanePosition.from_bytes(state) == LanePosition(1, 2)


def test_a_reopening_continues_after_the_last_acknowledged_batch(lane):
    state = opened(lane).deliver([batch(1), batch(2)], never)
    opened(lane, state).deliver([batch(3)], never)
    assert lane.received[-1] == (1, 3, [b"batch 3"])


def test_in_another_epoch_the_lane_begins_anew(lane):
    state = opened(lane).deliver([batch(1), batch(2)], never)
    lane.current = 2
    later = opened(lane, state)
    again = later.deliver([batch(2)], never)
    assert lane.received[-1] == (2, 1, [b"batch 2"])
    assert LanePosition.from_bytes(again) == LanePosition(2, 1)
    assert LanePosition.from_bytes(opened(lane, again).deliver([], never)) == LanePosition(2, 1)


@pytest.mark.parametrize("failure", [UpstreamUnavailable("not now"), PoisonEntry("too large")])
def test_a_failure_uses_no_number(lane, failure):
    backend = opened(lane)
    state = backend.deliver([batch(1)], never)
    lane.failure = failure
    with pytest.raises(type(failure)):
        backend.deliver([batch(2), batch(3)], never)
    lane.failure = None
    # As a pump goes on: opened again with what was committed.
    backend.close()
    backend.open(RUN, state)
    backend.deliver([batch(2), batch(3)], never)
    assert lane.received == [(1, 1, [b"batch 1"]), (1, 2, [b"batch 2", b"batch 3"])]
    # And where the entry is set aside, the next takes its number: the root sees no gap.
    backend.open(RUN, state)
    backend.deliver([batch(3)], never)
    assert lane.received[-1] == (1, 2, [b"batch 3"])


def test_the_lanes_problem_and_the_roots_address_are_shown(lane):
    backend = RootBackend(lambda _: lane)
    assert (backend.trouble(), backend.location()) == ("", None)
    backend.open(RUN, None)
    assert (backend.trouble(), backend.location()) == ("", "login:4711")
    lane.trouble = "it is away"
    assert backend.trouble() == "it is away"
    backend.close()
    assert lane.received == [], "closing it is of no concern to the lane, which is the run's"


@pytest.mark.parametrize("state", [None, b""])
def test_before_the_first_delivery_there_is_no_state(state):
    assert LanePosition.from_bytes(state) is None


def test_a_batch_that_is_set_aside_leaves_no_gap_for_the_root(lane):
    """The pump looks for the poison by halves, and opens the backend anew each time."""

    class Choosy(FakeLane):
        def deliver(self, epoch, first, payloads):
            if b"batch 3" in payloads:
                raise PoisonEntry("too large")
            super().deliver(epoch, first, payloads)

    choosy, committed = Choosy(), []
    entries = [*(batch(number, EntryKind.FILES) for number in range(1, 6)), end(6)]
    pump = Pump(
        RootBackend(lambda _: choosy),
        replace(RUN, files_lane=True),
        Cursor(counts_items=True),
        read=lambda after: entries[after:],
        commit=lambda *cursor: committed.append(cursor),
    )
    pump.start()
    assert pump.drain(time.monotonic() + 20.0)
    assert pump.stop(20.0)
    numbered = [pair for _, first, payloads in choosy.received for pair in enumerate(payloads, first)]
    assert numbered == [(1, b"batch 1"), (2, b"batch 2"), (3, b"batch 4"), (4, b"batch 5")]
    position, state, delivered, set_aside = committed[-1]
    assert (position, delivered, set_aside) == (6, 4, 1)
    assert LanePosition.from_bytes(state) == LanePosition(1, 4)


# ---- the cursor's books --------------------------------------------------------------------------


def test_a_cursor_counts_each_batch_as_one(make_block):
    records = OutboxEntry(4, EntryKind.RECORDS, make_block(["a"], [[1.0], [2.0]]).to_bytes())
    counted = [count_records(entry) for entry in (batch(1), records, end(5), batch(6, EntryKind.FILES))]
    assert counted == [1, 2, 0, 0]
    cursor = Cursor().after_delivery([batch(1), batch(2), end(3)], b"state")
    assert (cursor.position, cursor.state, cursor.delivered_records) == (3, b"state", 2)
    aside = cursor.after_setting_aside(batch(4))
    assert (aside.position, aside.state) == (4, b"state")
    assert (aside.delivered_records, aside.set_aside_records) == (2, 1)


def test_a_cursor_of_a_lane_for_files_counts_items_and_batches_with_items_alike():
    cursor = Cursor(counts_items=True).after_delivery([batch(1, EntryKind.FILES), end(2)], b"")
    assert cursor.delivered_records == 1
    assert cursor.after_setting_aside(batch(3, EntryKind.FILES)).set_aside_records == 1
