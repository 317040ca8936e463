"""The content store: once by digest, whole or not at all, and kept for as long as something needs it."""

from __future__ import annotations

import hashlib
import os

import pytest

from tracker_daemon.contents.store import ContentStore, StoreTotals
from tracker_daemon.errors import ContentMismatch, ContentRefused, ContentStoreFull
from tracker_daemon.files.content_files import place_copy
from tracker_protocol import limits

DATA = b"the content" * 1_000
DIGEST = hashlib.sha256(DATA).hexdigest()


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path):
    return ContentStore(tmp_path, content_max_bytes=100_000, contents_max_bytes=150_000, unused_s=60)


def put(store, data=DATA):
    digest = hashlib.sha256(data).hexdigest()
    reception = store.receive(digest, len(data))
    reception.open()
    reception.write(data)
    reception.complete()
    return digest


def write_all(reception, data):
    reception.write(data)
    reception.complete()


def test_a_content_is_there_once_it_is_complete_and_only_then(store):
    reception = store.receive(DIGEST, len(DATA))
    assert reception.open() == 0
    reception.write(DATA[:5])
    assert not store.path(DIGEST).exists()
    reception.write(DATA[5:])
    reception.complete()
    reception.stop()
    assert store.path(DIGEST).read_bytes() == DATA
    assert store.expect(DIGEST)
    assert store.totals() == StoreTotals(1, len(DATA), 0)


def test_a_broken_upload_goes_on_where_it_stopped_also_in_another_process(store, tmp_path):
    reception = store.receive(DIGEST, len(DATA))
    reception.open()
    reception.write(DATA[:777])
    reception.stop()
    reception.stop()
    for resumed in (store, ContentStore(tmp_path)):
        again = resumed.receive(DIGEST, len(DATA))
        assert again.open() == 777
        again.stop()
    final = store.receive(DIGEST, len(DATA))
    final.write(DATA[final.open() :])
    final.complete()
    assert store.path(DIGEST).read_bytes() == DATA


@pytest.mark.parametrize("sent", [DATA[:-1] + b"!", DATA[:-1], DATA + b"more"])
def test_what_is_not_what_was_announced_is_thrown_away(store, sent):
    reception = store.receive(DIGEST, len(DATA))
    reception.open()
    with pytest.raises(ContentMismatch):
        write_all(reception, sent)
    reception.stop()
    assert not store.expect(DIGEST)
    assert store.totals() == StoreTotals()
    assert store.receive(DIGEST, len(DATA)).open() == 0


def test_the_bounds_hold_for_one_and_for_all(store):
    with pytest.raises(ContentRefused, match="content_max_bytes"):
        store.receive("aa" * 32, 100_001)
    put(store, b"a" * 90_000)
    waiting = store.receive("bb" * 32, 60_000)
    with pytest.raises(ContentStoreFull, match="contents_max_bytes"):
        store.receive("cc" * 32, 1)
    waiting.stop()  # its place is free again, since nothing of it came
    store.receive("cc" * 32, 60_000)


def test_what_is_expected_is_not_removed_and_what_was_mentioned_may_be(store):
    digest = put(store)
    assert store.unexpected() == frozenset()
    assert store.expect(digest)  # a second client is told that it is there
    store.note_journalled([digest])
    assert store.unexpected() == frozenset()
    store.note_journalled([digest])
    assert store.unexpected() == {digest}
    assert store.expect(digest)  # and a third, between the question and the removal
    assert store.remove([digest]) == 0
    store.note_journalled([digest])
    assert store.remove([digest]) == 1
    assert not store.path(digest).exists()
    assert not store.expect(digest)


def test_what_no_item_came_for_goes_after_a_while(tmp_path):
    clock = Clock()
    store = ContentStore(tmp_path, unused_s=60, clock=clock)
    digest = put(store)
    clock.now += 59
    assert store.unexpected() == frozenset()
    clock.now += 2
    assert store.unexpected() == {digest}


def test_after_a_restart_what_is_there_is_waited_for_from_its_own_time(tmp_path):
    clock = Clock()
    digest = put(ContentStore(tmp_path, clock=clock))
    os.utime(ContentStore(tmp_path).path(digest), (clock.now, clock.now))
    restarted = ContentStore(tmp_path, unused_s=60, clock=clock)
    assert restarted.unexpected() == frozenset()
    clock.now += 61
    assert restarted.unexpected() == {digest}


def test_partial_files_that_nobody_goes_on_with_are_removed(tmp_path):
    clock = Clock()
    store = ContentStore(tmp_path, unused_s=60, clock=clock)
    reception = store.receive(DIGEST, len(DATA))
    reception.open()
    reception.write(DATA[:10])
    reception.stop()
    partial = tmp_path / "partial" / DIGEST
    os.utime(partial, (clock.now, clock.now))
    store.remove_abandoned()
    assert partial.exists()
    clock.now += 61
    store.remove_abandoned()
    assert not partial.exists()
    assert store.totals() == StoreTotals()


def test_an_empty_content_is_one_too(store):
    empty = hashlib.sha256(b"").hexdigest()
    reception = store.receive(empty, 0)
    reception.open()
    reception.complete()
    assert store.path(empty).read_bytes() == b""


def test_little_of_a_content_is_ever_unsynced_for_the_journal_to_wait_for(store, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "CONTENT_UNSYNCED_MAX_BYTES", 2_000)
    fsync, synced = os.fsync, []

    def note(descriptor):
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    reception = store.receive(DIGEST, len(DATA))
    reception.open()
    monkeypatch.setattr(os, "fsync", note)
    for at in range(0, len(DATA), 1_000):
        reception.write(DATA[at : at + 1_000])
    assert synced == list(range(2_000, len(DATA), 2_000))
    reception.complete()
    synced.clear()
    monkeypatch.setattr("tracker_daemon.files.content_files._COPY_BYTES", 1_000)
    place_copy(store.path(DIGEST), tmp_path / "copy")
    assert synced[:-2] == list(range(2_000, len(DATA), 2_000))
    assert (tmp_path / "copy").read_bytes() == DATA
