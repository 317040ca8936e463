"""Damage on disk is reported, never returned as data."""

import sqlite3

import pytest

from tests.support.journal_scene import cursor_of, transaction
from tracker_daemon.errors import JournalCorrupt, JournalError
from tracker_daemon.journal import Journal


def test_a_flipped_byte_in_an_event_is_found_and_the_rest_can_be_read(scene):
    with transaction(scene.journal):
        scene.append(*[scene.batch(n, f"payload number {n}".encode() * 3) for n in range(1, 6)])
    scene.flip_byte_of(b"payload number 3" * 3)
    good = scene.journal.events_after(scene.run, 0, limit_bytes=1 << 20)
    assert [event.position for event in good] == [1, 2]
    with pytest.raises(JournalCorrupt, match="position 3") as caught:
        scene.journal.events_after(scene.run, 2, limit_bytes=1 << 20)
    assert caught.value.position == 3
    rest = scene.journal.events_after(scene.run, caught.value.position, limit_bytes=1 << 20)
    assert [event.position for event in rest] == [4, 5]


def test_a_flipped_byte_in_a_large_payload_is_found(scene):
    with transaction(scene.journal):
        scene.append(scene.batch(1, bytes(150_000) + b"the place" + bytes(150_000)))
    scene.flip_byte_of(b"the place")
    with pytest.raises(JournalCorrupt):
        scene.events()


def test_a_changed_number_beside_the_payload_is_found(scene):
    with transaction(scene.journal):
        scene.append(scene.batch(1, b"x"))
    scene.journal.close()
    with sqlite3.connect(scene.directory / "journal.sqlite3") as other:
        other.execute("UPDATE event SET time_ns = time_ns + 1")
    other.close()
    scene.reopen()
    with pytest.raises(JournalCorrupt):
        scene.events()


def test_a_flipped_byte_in_a_snapshot_is_found(scene):
    with transaction(scene.journal):
        scene.journal.put_snapshot(scene.run, 0, b"a snapshot of the fold")
    scene.flip_byte_of(b"a snapshot of the fold")
    with pytest.raises(JournalCorrupt, match="snapshot of run"):
        scene.journal.snapshot(scene.run)


def test_a_flipped_byte_in_an_outbox_entry_is_found(scene):
    with transaction(scene.journal):
        for text in (b"entry the first", b"entry the second"):
            scene.journal.put_outbox(scene.run, 1, text, 1)
    scene.flip_byte_of(b"entry the second")
    assert [e.number for e in scene.journal.outbox_after(scene.run, 0, limit_bytes=1 << 20)] == [1]
    with pytest.raises(JournalCorrupt, match="entry 2"):
        scene.journal.outbox_after(scene.run, 1, limit_bytes=1 << 20)


def test_a_flipped_byte_in_a_cursors_state_is_found(scene):
    with transaction(scene.journal):
        scene.journal.put_cursor(scene.run, "csv", 0, b"generation 3, offset 4711", 0)
    scene.flip_byte_of(b"generation 3, offset 4711")
    with pytest.raises(JournalCorrupt, match="cursor of csv"):
        cursor_of(scene.journal, scene.run, "csv")


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "journal.sqlite3"
    path.write_bytes(b"not a database, but somebody's file. " * 100)
    before = path.read_bytes()
    with pytest.raises(JournalCorrupt, match=r"journal\.sqlite3"):
        Journal.open(tmp_path, history_bytes=1)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("pragma", "message"),
    [
        ("user_version=99", "format 99.* of the version that wrote it"),
        ("user_version=2", r"format 2.* sync` of tracker-daemon 0\.1\.0"),
        ("application_id=5", "not a tracker-daemon's"),
    ],
)
def test_another_format_is_refused_by_name(scene, pragma, message):
    scene.journal.close()
    with sqlite3.connect(scene.directory / "journal.sqlite3") as other:
        other.execute(f"PRAGMA {pragma}")
    other.close()
    with pytest.raises(JournalError, match=message):
        Journal.open(scene.directory, history_bytes=1)
