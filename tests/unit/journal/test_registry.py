"""Runs and streams: rows come back as stored, and sequences are contiguous, each once."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.journal_scene import transaction
from tracker_daemon.errors import JournalError
from tracker_daemon.journal import Event, EventKind, RunRow, StreamRow

STREAM = b"s" * 16
OTHER = b"t" * 16


def test_rows_come_back_as_they_were_stored_and_updated(scene):
    run = RunRow(0, "rid", "lk", "p", "n", 3, "/out", '{"a": 1}', 2, "RUNNING", "", 5, 0, "eval")
    stream = StreamRow(OTHER, scene.run, 4, 2, 10, "node7", 99, False, 0, b"p" * 16, "agent 7")
    with transaction(scene.journal):
        run_id = scene.journal.insert_run(run)
        scene.journal.insert_stream(stream)
        scene.journal.update_run(run_id, status="FAILED", reason="rank 3 is lost", ended_ns=77)
        scene.journal.update_stream(OTHER, finished=True, exit_code=-9)
    scene.reopen()
    expected = replace(run, id=run_id, status="FAILED", reason="rank 3 is lost", ended_ns=77)
    assert scene.journal.runs()[-1] == expected
    assert replace(stream, finished=True, exit_code=-9) in scene.journal.streams(scene.run)
    assert scene.journal.streams(run_id) == []
    assert len(scene.journal.streams()) == 2


@pytest.mark.parametrize("column", ["id", "run_id = 'x' --", "no_such"])
def test_only_columns_of_a_run_can_be_changed(scene, column):
    with transaction(scene.journal), pytest.raises(JournalError, match="no column"):
        scene.journal.update_run(scene.run, **{column: "x"})
    assert scene.journal.runs()[0].run_id == "id-first"


@pytest.mark.parametrize("column", ["stream_id", "run", "no_such"])
def test_a_streams_identity_cannot_be_changed(scene, column):
    with transaction(scene.journal), pytest.raises(JournalError, match="no column"):
        scene.journal.update_stream(STREAM, **{column: 1})


def test_unknown_runs_and_streams_are_named(scene):
    with transaction(scene.journal):
        with pytest.raises(JournalError, match="row id 99"):
            scene.journal.update_run(99, status="FAILED")
        with pytest.raises(JournalError, match="row id 99"):
            scene.append(scene.notice(run=99))
        with pytest.raises(JournalError, match=OTHER.hex()):
            scene.append(scene.batch(1, stream=OTHER))
        with pytest.raises(JournalError, match=OTHER.hex()):
            scene.journal.update_stream(OTHER, finished=True)
        with pytest.raises(JournalError, match="exists already"):
            scene.add_stream(STREAM)


def test_a_stream_belongs_to_one_run(scene):
    with transaction(scene.journal):
        other = scene.add_run("other")
        with pytest.raises(JournalError, match="is of run"):
            scene.append(Event(other, EventKind.BATCH, STREAM, 1, b""))


@pytest.mark.parametrize("kind", [EventKind.BATCH, EventKind.REJECTED])
@pytest.mark.parametrize("sequence", [0, 2, 4, 5])
def test_a_sequence_that_is_not_the_next_is_refused(scene, kind, sequence):
    with transaction(scene.journal):
        scene.append(scene.batch(1), scene.batch(2))
        with pytest.raises(JournalError, match=f"sequence 3, not {sequence}"):
            scene.append(Event(scene.run, kind, STREAM, sequence, b""))
    assert scene.next_sequence() == 3


def test_rejected_batches_use_their_sequence_up(scene):
    with transaction(scene.journal):
        scene.append(scene.batch(1), Event(scene.run, EventKind.REJECTED, STREAM, 2, b"why"), scene.batch(3))
    assert scene.next_sequence() == 4


def test_a_gap_uses_up_all_that_it_covers(scene):
    with transaction(scene.journal):
        scene.append(scene.batch(1), scene.gap(2, to_sequence=9, points=400), scene.batch(10))
        with pytest.raises(JournalError, match="sequence 11, not 12"):
            scene.append(scene.gap(12, to_sequence=13))
    assert scene.next_sequence() == 11


@pytest.mark.parametrize("to_sequence", [0, 2**62, 2**64 - 1])
def test_an_impossible_gap_is_refused(scene, to_sequence):
    with transaction(scene.journal), pytest.raises(JournalError, match="impossible"):
        scene.append(scene.gap(1, to_sequence))
    assert scene.next_sequence() == 1


def test_a_gap_of_another_form_is_refused(scene):
    with transaction(scene.journal), pytest.raises(JournalError, match="16 bytes"):
        scene.append(Event(scene.run, EventKind.GAP, STREAM, 1, b"short"))


@pytest.mark.parametrize("sequence", [-1, 2**62, 2**64 - 1])
def test_a_sequence_that_does_not_fit_is_refused_for_any_kind(scene, sequence):
    with transaction(scene.journal):
        with pytest.raises(JournalError, match="cannot be stored"):
            scene.append(Event(scene.run, EventKind.HELLO, STREAM, sequence, b""))
        assert scene.append(scene.notice()) == [1]


def test_a_refused_append_changes_nothing_and_the_transaction_goes_on(scene):
    with transaction(scene.journal):
        scene.append(scene.batch(1))
        with pytest.raises(JournalError):
            scene.append(scene.batch(2), scene.notice(), scene.batch(2))
        assert scene.append(scene.batch(2)) == [2]
    scene.reopen()
    assert [event.sequence for event in scene.events()] == [1, 2]
    assert scene.next_sequence() == 3


def test_other_kinds_use_no_sequence_up(scene):
    with transaction(scene.journal):
        scene.append(Event(scene.run, EventKind.HELLO, STREAM, 17, b""))
        scene.append(Event(scene.run, EventKind.FLUSHED, STREAM, 5, b""), scene.batch(1))
    assert scene.next_sequence() == 2


def test_the_next_sequence_can_be_set_where_the_journal_lost_some(scene):
    with transaction(scene.journal):
        scene.journal.update_stream(STREAM, next_sequence=50)
        with pytest.raises(JournalError, match="sequence 50, not 1"):
            scene.append(scene.batch(1))
        scene.append(scene.batch(50))
        with pytest.raises(JournalError, match="cannot be"):
            scene.journal.update_stream(STREAM, next_sequence="x")
    assert scene.next_sequence() == 51


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.integers(-2, 3), st.integers(0, 3), st.sampled_from("bbbgr"), st.booleans()), max_size=12
    )
)
def test_sequences_follow_a_counter_for_any_mixture_of_commits_and_rollbacks(make_scene, steps):
    scene = make_scene()
    expected = 1
    for offset, width, kind, committed in steps:
        sequence = max(expected + offset, 0)
        event = {
            "b": scene.batch(sequence),
            "g": scene.gap(sequence, sequence + width),
            "r": Event(scene.run, EventKind.REJECTED, STREAM, sequence, b"r"),
        }[kind]
        after = sequence + 1 + (width if kind == "g" else 0)
        scene.journal.begin()
        if sequence == expected:
            scene.append(event)
        else:
            with pytest.raises(JournalError):
                scene.append(event)
        if committed:
            scene.journal.commit()
            expected = after if sequence == expected else expected
        else:
            scene.journal.rollback()
        assert scene.next_sequence() == expected
    scene.reopen()
    assert scene.next_sequence() == expected
    scene.journal.close()
