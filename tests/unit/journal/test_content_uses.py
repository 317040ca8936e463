"""What the outbox needs of contents, and what its lanes for files need of the outbox."""

from __future__ import annotations

import pytest

from tests.support.journal_scene import transaction
from tracker_daemon.journal.rows import RunRow
from tracker_daemon.journal.store import Journal
from tracker_daemon.outbox.entries import EntryKind


@pytest.fixture
def journal(tmp_path):
    with_one = Journal.open(tmp_path / "state", history_bytes=0)
    yield with_one
    with_one.close()


def begin(journal, *cursors):
    with transaction(journal):
        run = journal.insert_run(RunRow(0, "run", "key", "p", "n", 0, "/out", "{}"))
        for cursor in cursors:
            journal.put_cursor(run, cursor, 0, b"", 0)
    return run


def put(journal, run, kind, *digests):
    with transaction(journal):
        number = journal.put_outbox(run, kind, b"x" * 100, int(kind is EntryKind.RECORDS))
        if digests:
            journal.content_uses.add(run, number, digests)
    return number


def move(journal, run, cursor, position, delivered=0):
    with transaction(journal):
        journal.put_cursor(run, cursor, position, b"", delivered)


def needed(journal):
    with transaction(journal):
        return journal.content_uses.release()


def test_a_content_is_needed_until_every_cursor_has_come_past_it(journal):
    run = begin(journal, "csv", "csv:files", "wandb")
    files = put(journal, run, EntryKind.FILES, "aa", "bb")
    later = put(journal, run, EntryKind.FILES, "bb")
    move(journal, run, "csv", later)
    move(journal, run, "wandb", later)
    assert needed(journal) == {"aa", "bb"}
    assert journal.backlog(run).pending_files == {"csv": 0, "csv:files": 2, "wandb": 0}
    move(journal, run, "csv:files", files, 1)
    assert needed(journal) == {"bb"}
    move(journal, run, "csv:files", later, 2)
    assert needed(journal) == frozenset()


def test_uses_survive_a_restart_and_a_rollback(tmp_path):
    journal = Journal.open(tmp_path / "state", history_bytes=0)
    run = begin(journal, "csv")
    put(journal, run, EntryKind.FILES, "aa")
    journal.begin()
    journal.content_uses.add(run, 1, ["bb"])
    journal.rollback()
    journal.close()
    journal = Journal.open(tmp_path / "state", history_bytes=0)
    assert needed(journal) == {"aa"}
    journal.close()


def test_a_lane_for_files_reads_past_the_records_and_does_not_hold_them(journal):
    run = begin(journal, "csv", "csv:files")
    files = put(journal, run, EntryKind.FILES, "aa")
    last = [put(journal, run, EntryKind.RECORDS) for _ in range(5)][-1]
    end = put(journal, run, EntryKind.END)
    found = journal.outbox_after(run, 0, limit_bytes=10_000, files_alone=True)
    assert [(entry.number, entry.kind) for entry in found] == [(files, EntryKind.FILES), (end, EntryKind.END)]
    move(journal, run, "csv", end, 5)
    with transaction(journal):
        assert journal.reclaim().entries == 0  # the lane still needs the first one, and so the rest
    move(journal, run, "csv:files", files, 1)
    with transaction(journal):
        assert journal.reclaim().entries == last - files + 2
