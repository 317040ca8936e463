"""The event log: what was committed comes back as it was, in order, once."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.journal_scene import cursor_of, transaction
from tracker_daemon.errors import JournalError
from tracker_daemon.journal import Event, EventKind, Journal, RunRow

events_of_two_runs = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from([1, 2]),
            st.sampled_from([EventKind.HELLO, EventKind.FLUSHED, EventKind.LOST, EventKind.NOTICE]),
            st.binary(max_size=16),
            st.integers(0, 2**61),
            st.one_of(st.binary(max_size=50), st.integers(0, 200_000).map(bytes)),
        ),
        max_size=6,
    ),
    max_size=6,
)


def read_in_slices(journal, run, limit_bytes):
    found = []
    while slice_ := journal.events_after(run, found[-1].position if found else 0, limit_bytes=limit_bytes):
        found += slice_
    return found


@settings(max_examples=25, deadline=None)
@given(ticks=events_of_two_runs, limit_bytes=st.integers(1, 300_000))
def test_whatever_was_appended_is_replayed_in_order_after_reopening(ticks, limit_bytes):
    with tempfile.TemporaryDirectory() as directory:
        journal = Journal.open(Path(directory), history_bytes=1 << 30)
        with transaction(journal):
            for _ in range(2):
                journal.insert_run(RunRow(0, "r", "l", "p", "n", 0, "/o", "{}"))
        expected = {1: [], 2: []}
        for tick, batch in enumerate(ticks, 1):
            events = [Event(*values) for values in batch]
            with transaction(journal):
                positions = journal.append(events, tick=tick, time_ns=-tick)
            for event, position in zip(events, positions, strict=True):
                expected[event.run].append((event, position, tick, -tick))
        journal.close()
        journal = Journal.open(Path(directory), history_bytes=1 << 30)
        for run in (1, 2):
            found = [
                (Event(e.run, e.kind, e.stream, e.sequence, e.payload), e.position, e.tick, e.time_ns)
                for e in read_in_slices(journal, run, limit_bytes)
            ]
            assert found == expected[run]
        journal.close()


def test_positions_are_contiguous_over_all_runs(scene):
    with transaction(scene.journal):
        other = scene.add_run("other")
        first = scene.append(scene.notice(), scene.notice(run=other), scene.notice())
        second = scene.append(scene.notice(run=other))
    scene.reopen()
    with transaction(scene.journal):
        third = scene.append(scene.notice())
    assert first + second + third == [1, 2, 3, 4, 5]


def test_ticks_never_go_back_and_go_on_after_reopening(scene):
    with transaction(scene.journal):
        scene.journal.append([scene.notice()], tick=7, time_ns=0)
        scene.journal.append([scene.notice()], tick=7, time_ns=0)
        with pytest.raises(JournalError, match="tick 6"):
            scene.journal.append([scene.notice()], tick=6, time_ns=0)
    assert scene.reopen().next_tick == 8


def test_a_slice_holds_at_least_one_event_and_stops_at_its_bytes(scene):
    with transaction(scene.journal):
        scene.append(*[scene.notice(b"x" * 1000) for _ in range(5)])
    assert len(scene.journal.events_after(scene.run, 0, limit_bytes=1)) == 1
    assert len(scene.journal.events_after(scene.run, 0, limit_bytes=2000)) == 2
    assert [e.position for e in scene.journal.events_after(scene.run, 3, limit_bytes=10_000)] == [4, 5]
    assert scene.journal.events_after(scene.run, 5, limit_bytes=1) == []


def test_nothing_is_written_outside_a_transaction(scene):
    journal = scene.journal
    writes = [
        lambda: scene.append(scene.notice()),
        lambda: scene.add_run("x"),
        lambda: journal.update_run(scene.run, status="FAILED"),
        lambda: journal.put_snapshot(scene.run, 0, b""),
        lambda: journal.put_outbox(scene.run, 1, b"", 0),
        lambda: journal.put_cursor(scene.run, "csv", 0, b"", 0),
        journal.begin_epoch,
        journal.reclaim,
        journal.shrink,
        journal.commit,
    ]
    for write in writes:
        with pytest.raises(JournalError, match="between begin"):
            write()
    assert scene.events() == []


def test_a_rollback_leaves_no_trace(scene):
    with transaction(scene.journal):
        scene.append(scene.batch(1))
        scene.journal.put_outbox(scene.run, 1, b"kept", 1)
        scene.journal.put_snapshot(scene.run, 1, b"kept")
    scene.journal.begin()
    scene.append(scene.batch(2), scene.batch(3))
    scene.journal.put_snapshot(scene.run, 3, b"undone")
    scene.journal.put_outbox(scene.run, 1, b"undone", 5)
    scene.journal.put_cursor(scene.run, "csv", 2, b"", 6)
    scene.journal.begin_epoch()
    run = scene.add_run("undone")
    scene.journal.rollback()

    assert (scene.next_sequence(), scene.journal.epoch, len(scene.journal.runs())) == (2, 1, 1)
    assert scene.journal.backlog(scene.run).records == 1
    assert cursor_of(scene.journal, scene.run, "csv") is None
    assert scene.journal.snapshot(scene.run) == (1, b"kept")
    with transaction(scene.journal):
        assert scene.append(scene.batch(2)) == [2]
        assert scene.journal.put_outbox(scene.run, 1, b"", 0) == 2
        with pytest.raises(JournalError):
            scene.append(scene.notice(run=run))


def test_an_error_within_a_transaction_rolls_it_back_and_is_raised(scene):
    def append_and_fail():
        with transaction(scene.journal):
            scene.append(scene.batch(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        append_and_fail()
    assert scene.next_sequence() == 1
    assert scene.events() == []


def test_the_latest_snapshot_alone_is_kept(scene):
    with transaction(scene.journal):
        scene.append(scene.notice(), scene.notice())
        assert scene.journal.snapshot(scene.run) is None
        scene.journal.put_snapshot(scene.run, 1, b"old" * 100_000)
        scene.journal.put_snapshot(scene.run, 2, b"new" * 100_000)
    assert scene.reopen().snapshot(scene.run) == (2, b"new" * 100_000)


@pytest.mark.parametrize("position", [0, 3])
def test_a_snapshot_neither_goes_back_nor_beyond_the_last_event(scene, position):
    with transaction(scene.journal):
        scene.append(scene.notice(), scene.notice())
        scene.journal.put_snapshot(scene.run, 1, b"")
        with pytest.raises(JournalError, match=f"snapshot at {position}"):
            scene.journal.put_snapshot(scene.run, position, b"")


def test_token_and_epoch_outlive_the_daemon(scene):
    token = scene.journal.token
    assert len(token) >= 43
    with transaction(scene.journal):
        assert scene.journal.begin_epoch() == 2
    journal = scene.reopen()
    assert (journal.token, journal.epoch) == (token, 2)
