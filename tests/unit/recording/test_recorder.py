"""The recorder: what commits together, what a restart replays, and what a failure ends."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import Future
from dataclasses import replace

import msgspec
import pytest

from tests.support.ingest.messages import body, stream_id
from tracker_daemon.aggregation.root import snapshot
from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.errors import JournalError
from tracker_daemon.journal.event import EventKind, Gap
from tracker_daemon.journal.rows import RunRow
from tracker_daemon.outbox.entries import EntryKind
from tracker_daemon.recording import events, recorder
from tracker_daemon.recording.recorder import Submission


def records(rig, run):
    """What the run emitted, as (ordinal, step, loss/mean)."""
    entries = rig.result(rig.recorder.call(lambda j: j.outbox_after(run.row_id, 0, limit_bytes=1 << 30)))
    blocks = [RecordBlock.from_bytes(entry.payload) for entry in entries if entry.kind is EntryKind.RECORDS]
    return [
        (block.first_ordinal + i, int(step), float(block.values[i, block.columns.index("loss/mean")]))
        for block in blocks
        for i, step in enumerate(block.steps)
    ]


def stored(rig, run):
    return rig.result(rig.recorder.call(lambda j: j.events_after(run.row_id, 0, limit_bytes=1 << 30)))


def two_ranks(rig, run, steps=3):
    """Both ranks of a run join and log ``steps`` steps."""
    for rank in (0, 1):
        rig.join(run, rank, rank)
    for rank in (0, 1):
        rig.batch(run, rank, 1, body({step: step + rank for step in range(steps)}, ["loss"]))
    rig.flush()


class Gate:
    """Holds the recorder's thread within a transaction."""

    def __init__(self, rig):
        self.reached, self.opened = threading.Event(), threading.Event()
        self.held = rig.recorder.call(self._hold)
        assert self.reached.wait(20)

    def _hold(self, _):
        self.reached.set()
        assert self.opened.wait(20)

    def open(self):
        self.opened.set()


# ---- ticks ---------------------------------------------------------------------------------------


def test_what_is_pending_together_is_one_transaction_of_all_runs(rig):
    rig.open().start([])
    runs = [rig.run("a"), rig.run("b")]
    gate = Gate(rig)
    for number, run in enumerate(runs):
        for rank in (0, 1):
            rig.join(run, 2 * number + rank, rank)
            rig.batch(run, 2 * number + rank, 1, body({0: rank}, ["loss"]))
    gate.open()
    rig.flush()
    assert [len(tick.submissions) for tick in rig.ticks if tick.submissions] == [8]
    ticks = {event.tick for run in runs for event in stored(rig, run)}
    assert len(ticks) == 1
    assert [records(rig, run) for run in runs] == [[(1, 0, 0.5)], [(1, 0, 0.5)]]
    assert sorted(rig.acknowledged) == [(stream_id(number), 1) for number in range(4)]


def test_nothing_is_acknowledged_before_its_commit(rig, tmp_path):
    committing, may_commit = threading.Event(), threading.Event()

    class Slow(sqlite3.Connection):
        armed = False

        def execute(self, sql, *arguments):
            if sql == "COMMIT" and Slow.armed:
                committing.set()
                assert may_commit.wait(20)
            return super().execute(sql, *arguments)

    rig.open(Slow).start([])
    run = rig.run()
    rig.join(run, 0, 0)
    rig.flush()
    Slow.armed = True
    rig.batch(run, 0, 1, body({0: 1.0}, ["loss"]))
    asked = rig.recorder.call(lambda _: "answer")
    assert committing.wait(20)
    assert rig.acknowledged == []
    assert not asked.done()
    may_commit.set()
    assert rig.result(asked) == "answer"
    assert rig.acknowledged == [(stream_id(0), 1)]


def test_a_call_returns_after_all_were_told_of_the_tick_it_was_in(rig):
    rig.open().start([])
    run = rig.run()
    gate = Gate(rig)
    rig.join(run, 0, 0)
    told = []
    asked = rig.recorder.call(lambda _: None)
    asked.add_done_callback(lambda _: told.append(len(rig.ticks)))
    gate.open()
    rig.result(asked)
    assert told == [2]
    assert rig.ticks[1].submissions


def test_stopping_commits_what_is_pending_and_takes_no_more(rig):
    rig.open().start([])
    run = rig.run()
    gate = Gate(rig)
    rig.join(run, 0, 0)
    rig.batch(run, 0, 1, body({0: 1.0}, ["loss"]))
    asked = rig.recorder.call(lambda journal: len(journal.runs()))
    stopper = threading.Thread(target=rig.recorder.stop)
    stopper.start()
    gate.open()
    stopper.join(20)
    assert rig.result(asked) == 1
    assert rig.acknowledged == [(stream_id(0), 1)]
    with pytest.raises(JournalError):
        rig.batch(run, 0, 2, body({1: 1.0}))
    with pytest.raises(JournalError):
        rig.result(rig.recorder.call(lambda _: None))


# ---- calls ---------------------------------------------------------------------------------------


def test_a_call_s_journal_error_reaches_its_caller_and_stops_nothing(rig):
    rig.open().start([])
    run = rig.run()
    with pytest.raises(JournalError, match="row id 99"):
        rig.result(rig.recorder.call(lambda journal: journal.update_run(99, status="FINISHED")))
    two_ranks(rig, run)
    assert len(records(rig, run)) == 3
    assert not rig.failures


def test_a_caller_that_goes_away_stops_nothing(rig):
    rig.open().start([])
    gate = Gate(rig)
    asked: Future = rig.recorder.call(lambda journal: journal.epoch)
    asked.cancel()
    gate.open()
    rig.flush()
    assert not rig.failures


# ---- failure -------------------------------------------------------------------------------------


class FailsToCommit(sqlite3.Connection):
    armed = False

    def execute(self, sql, *arguments):
        if sql == "COMMIT" and FailsToCommit.armed:
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *arguments)


def test_a_commit_that_fails_ends_everything(rig, monkeypatch):
    monkeypatch.setattr(FailsToCommit, "armed", False)
    rig.open(FailsToCommit).start([])
    run = rig.run()
    two_ranks(rig, run)
    acknowledged = list(rig.acknowledged)
    gate = Gate(rig)
    FailsToCommit.armed = True
    rig.batch(run, 0, 2, body({9: 1.0}))
    asked = rig.recorder.call(lambda _: None)
    gate.open()
    with pytest.raises(JournalError, match="disk I/O error"):
        rig.result(gate.held)
    with pytest.raises(JournalError):
        rig.result(asked)
    rig.wait(lambda: rig.failures)
    assert "disk I/O error" in str(rig.failures[0])
    with pytest.raises(JournalError):
        rig.batch(run, 0, 3, body({10: 1.0}))
    with pytest.raises(JournalError):
        rig.result(rig.recorder.call(lambda _: None))
    assert rig.acknowledged == acknowledged

    # The next process goes on from what was committed, which is what was acknowledged.
    FailsToCommit.armed = False
    rig.close()
    rig.failures.clear()
    rig.open().start([])
    assert {row.next_sequence for row in rig.journal.streams()} == {2}


# ---- replay --------------------------------------------------------------------------------------


def plain(fold):
    """The fold's whole state, comparable."""
    return msgspec.msgpack.decode(snapshot.dump(fold))


def a_varied_run(rig, run):
    two_ranks(rig, run, steps=4)
    rig.batch(run, 0, 2, body({4: 1.0, 5: 2.0}, dropped_points=7))
    rig.flush()
    rig.batch(run, 0, 3, body({4: 3.0}, config=['{"lr": 1}']))
    gap = Gap(6, 12).to_bytes()
    rig.recorder.submit(Submission(run, EventKind.GAP, stream_id(1), 2, gap))
    rig.recorder.submit(Submission(run, EventKind.REJECTED, stream_id(1), 7, b"because"))
    rig.flush()
    notice = events.encode(events.NoticeEvent("something happened"))
    rig.recorder.submit(Submission(run, EventKind.NOTICE, payload=notice))
    rig.batch(run, 1, 8, body({4: 2.0}))
    rig.recorder.submit(Submission(run, EventKind.FLUSHED, stream_id(0)))
    rig.flush()
    rig.join(run, 9, 1, attempt=2)
    rig.recorder.submit(Submission(run, EventKind.ABSENT, payload=events.encode([0])))
    rig.flush()


@pytest.mark.parametrize("snapshots", [False, True])
def test_a_replay_gives_the_same_fold_and_the_next_ordinal(rig, snapshots):
    if snapshots:
        rig.settings = replace(rig.settings, snapshot_every_bytes=1)
    rig.open().start([])
    run, other = rig.run(), rig.run("other")
    for rank in (0, 1):
        rig.join(other, 20 + rank, rank)
    a_varied_run(rig, run)
    rig.batch(other, 20, 1, body({0: 1.0}, ["loss"]))
    rig.flush()
    for each in (run, other):
        was, notices = plain(rig.recorder.fold_of(each)), list(each.notices)
        fold, again = rig.replayed(each)
        assert plain(fold) == was
        assert again.notices == notices
    assert any("something happened" in text for _, text in run.notices)


def test_a_restarted_recorder_goes_on_with_its_timers_afresh(rig):
    rig.open().start([])
    run = rig.run()
    for rank in (0, 1):
        rig.join(run, rank, rank)
    rig.batch(run, 0, 1, body({0: 1.0}, ["loss"]))
    rig.flush()
    opened = run.deadline_ns
    rig.close()
    again = rig.run()
    again.row_id = run.row_id
    rig.open().start([again])
    rig.flush()
    assert again.deadline_ns > opened
    assert again.view.world_size == 2
    assert again.view.learning
    rig.batch(again, 1, 1, body({0: 3.0}, ["loss"]))
    rig.flush()
    assert records(rig, again) == [(1, 0, 2.0)]


def test_a_loss_begins_one_epoch_in_a_process_whoever_tells_of_it(rig):
    rig.open().start([])
    for _ in range(3):
        rig.result(rig.recorder.call(lambda _: rig.recorder.begin_epoch()))
    assert rig.result(rig.recorder.call(lambda journal: journal.epoch)) == 2


# ---- bounds --------------------------------------------------------------------------------------


def test_open_cells_beyond_their_memory_close_as_partial(rig):
    rig.settings = replace(rig.settings, open_cells_bytes=4096)
    rig.open().start([])
    run = rig.run()
    for rank in (0, 1):
        rig.join(run, rank, rank)
    rig.batch(run, 0, 1, body({0: 0.0}, ["loss"]))
    rig.batch(run, 1, 1, body({0: 0.0}, ["loss"]))
    for sequence in range(2, 12):
        rig.batch(run, 0, sequence, body({sequence * 100 + step: 1.0 for step in range(100)}))
    rig.flush()
    rig.wait(lambda: run.view.open_rows < 200)
    assert any(event.kind is EventKind.OVERFLOW for event in stored(rig, run))
    assert records(rig, run)[:2] == [(1, 0, 0.0), (2, 200, 1.0)]


def test_a_deadline_that_changes_nothing_does_not_keep_the_disk_busy(rig, monkeypatch):
    rig.open().start([])
    run = rig.run()
    two_ranks(rig, run)
    overdue = lambda *_: 1  # noqa: E731
    monkeypatch.setattr("tracker_daemon.aggregation.root.fold.RootFold.next_deadline_ns", overdue)
    monkeypatch.setattr(recorder, "_DEADLINE_AGAIN_NS", 3600 * 10**9)
    rig.batch(run, 0, 2, body({9: 1.0}))
    rig.flush()
    ticks = len(rig.ticks)
    rig.flush()
    assert len(rig.ticks) == ticks + 1


def finish_both(rig, run, sequence=2):
    for rank in (0, 1):
        rig.batch(run, rank, sequence, body(finish=0))
    rig.flush()


def test_an_ended_run_leaves_memory_and_keeps_its_summary(rig):
    rig.open().start([])
    run = rig.run()
    two_ranks(rig, run)
    finish_both(rig, run)
    assert (run.view.status, run.fold) == ("FINISHED", None)
    assert rig.recorder.summary_of(run).books["received"] == 6
    # Another process reads it back from the journal.
    rig.close()
    again = rig.run()
    again.row_id = run.row_id
    rig.open().start([])
    summary = rig.result(rig.recorder.call(lambda _: rig.recorder.summary_of(again)))
    assert summary == run.at_end
    assert again.fold is None


def test_a_straggler_s_data_is_recorded_and_the_end_stays(rig, monkeypatch):
    monkeypatch.setattr(recorder, "_STRAGGLERS_WAIT_NS", 100_000_000)
    rig.open().start([])
    run = rig.run()
    two_ranks(rig, run)
    rig.recorder.submit(Submission(run, EventKind.LOST, payload=events.encode([1])))
    rig.batch(run, 0, 2, body(finish=0))
    rig.flush()
    assert (run.view.status, run.view.reason) == ("FAILED", "rank 1 (last step 2) lost contact")
    for sequence in range(2, 5):
        rig.batch(run, 1, sequence, body({sequence + 10: 1.0}))
        rig.flush()
    assert [record[:2] for record in records(rig, run)][3:] == [(4, 12), (5, 13), (6, 14)]
    assert (run.view.status, run.view.reason) == ("FAILED", "rank 1 (last step 2) lost contact")
    rig.wait(lambda: run.fold is None)
    # Its events may be reclaimed from now on, so the snapshot must hold all of them.
    position, _ = rig.result(rig.recorder.call(lambda journal: journal.snapshot(run.row_id)))
    assert position == stored(rig, run)[-1].position
    rig.batch(run, 1, 5, body({20: 1.0}))
    rig.flush()
    assert records(rig, run)[-1][:2] == (7, 20)
    (row,) = rig.result(rig.recorder.call(lambda journal: journal.runs()))
    assert isinstance(row, RunRow)
    assert row.status == "FAILED"


def test_cells_that_wait_in_an_ended_run_still_close_in_time(rig, monkeypatch):
    monkeypatch.setattr(recorder, "_STRAGGLERS_WAIT_NS", 1)
    rig.open().start([])
    run = rig.run(partial_after_ns=300_000_000)
    two_ranks(rig, run)
    rig.recorder.submit(Submission(run, EventKind.LOST, payload=events.encode([0, 1])))
    rig.flush()
    assert run.view.status == "FAILED"
    for rank in (0, 1):  # both come back, and only one of them goes on
        payload = events.encode(events.HelloEvent(rank, 2, 1, ("loss",)))
        rig.recorder.submit(Submission(run, EventKind.HELLO, stream_id(rank), 0, payload))
        rig.batch(run, rank, 2, body({3: float(rank)}))
    rig.batch(run, 0, 3, body({4: 1.0}))
    rig.flush()
    assert run.view.open_rows == 1
    rig.wait(lambda: run.view.open_rows == 0)
    assert records(rig, run)[-1][1:] == (4, 1.0)
