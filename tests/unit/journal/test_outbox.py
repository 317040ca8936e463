"""The outbox and its cursors: contiguous entries, cursors that only go on, books that balance."""

import pytest

from tests.support.journal_scene import cursor_of, transaction
from tracker_daemon.errors import JournalError
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry


def test_entries_are_numbered_from_one_within_each_run(scene):
    with transaction(scene.journal):
        other = scene.add_run("other")
        numbers = [scene.journal.put_outbox(run, EntryKind.RECORDS, b"", 1) for run in (scene.run, other) * 2]
    scene.reopen()
    with transaction(scene.journal):
        numbers.append(scene.journal.put_outbox(other, EntryKind.END, b"", 0))
    assert numbers == [1, 1, 2, 2, 3]


def test_entries_come_back_in_order_in_slices(scene):
    payloads = [bytes([n]) * 1000 for n in range(5)]
    with transaction(scene.journal):
        for payload in payloads:
            scene.journal.put_outbox(scene.run, EntryKind.CONFIG, payload, 0)
    found = scene.journal.outbox_after(scene.run, 0, limit_bytes=1 << 20)
    assert found == [OutboxEntry(n, EntryKind.CONFIG, payload) for n, payload in enumerate(payloads, 1)]
    assert [e.number for e in scene.journal.outbox_after(scene.run, 2, limit_bytes=1001)] == [3, 4]
    assert scene.journal.outbox_after(scene.run, 5, limit_bytes=1) == []


def test_a_cursor_comes_back_as_it_was_committed(scene):
    with transaction(scene.journal):
        scene.journal.put_outbox(scene.run, 1, b"", 10)
        scene.journal.put_cursor(scene.run, "csv", 0, b"", 0)
        scene.journal.put_cursor(scene.run, "csv", 1, b"offset 17", 7, 3)
    cursor = cursor_of(scene.reopen(), scene.run, "csv")
    assert (cursor.position, cursor.state, cursor.delivered_records, cursor.set_aside) == (
        1,
        b"offset 17",
        7,
        3,
    )
    assert cursor_of(scene.journal, scene.run, "wandb") is None


def test_a_cursor_neither_goes_back_nor_beyond_the_last_entry(scene):
    with transaction(scene.journal):
        for _ in range(2):
            scene.journal.put_outbox(scene.run, 1, b"", 1)
        scene.journal.put_cursor(scene.run, "csv", 1, b"", 1)
        for position in (0, 3):
            with pytest.raises(JournalError, match="cannot go"):
                scene.journal.put_cursor(scene.run, "csv", position, b"", 1)
        with pytest.raises(JournalError, match="cannot have had"):
            scene.journal.put_cursor(scene.run, "csv", 2, b"", 2, 1)


def test_emitted_is_delivered_and_pending_and_set_aside_for_each_backend(scene):
    with transaction(scene.journal):
        for records in (5, 0, 7):
            scene.journal.put_outbox(scene.run, 1, b"", records)
        scene.journal.put_cursor(scene.run, "csv", 3, b"", 12)
        scene.journal.put_cursor(scene.run, "wandb", 2, b"", 4, 1)
    backlog = scene.reopen().backlog(scene.run)
    assert (backlog.entries, backlog.records) == (3, 12)
    assert [(c.backend, backlog.pending(c)) for c in backlog.cursors] == [("csv", 0), ("wandb", 7)]
