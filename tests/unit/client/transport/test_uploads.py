"""Uploads: contents first, then the item; apart from the rows, resumed, and named if they do not make it."""

from __future__ import annotations

import hashlib
import logging
import threading

import grpc
import pytest

from tests.support.waiting import wait_until
from tracker_protocol import limits

DATA = bytes(range(256)) * 16_384  # 4 MiB, eight chunks


@pytest.fixture
def big(tmp_path):
    path = tmp_path / "big.bin"
    path.write_bytes(DATA)
    return path


def messages(caplog):
    return " ".join(record.getMessage() for record in caplog.records)


def test_an_item_comes_once_its_content_is_there_and_names_it(daemon, connect, big):
    tracker = connect(daemon)
    tracker.log({"a": 1.0}, step=3)
    tracker.log_artifacts({"model": big})
    tracker.finish()
    (item,) = daemon.stream.items
    assert (item.kind, item.key, item.step) == ("artifact", "model", 3)
    (content,) = item.contents
    assert (content.path, content.size_bytes) == ("big.bin", len(DATA))
    assert content.sha256 == hashlib.sha256(DATA).digest()
    assert daemon.contents[content.sha256] == DATA


def test_a_broken_upload_goes_on_behind_what_has_come(daemon, connect, big):
    daemon.break_upload_at = len(DATA) // 2
    tracker = connect(daemon)
    tracker.log_artifacts({"model": big})
    tracker.finish(timeout=20)
    assert len(daemon.stream.items) == 1
    assert daemon.offsets[0] == 0
    assert daemon.offsets[-1] >= len(DATA) // 2


def test_rows_overtake_an_upload_and_the_last_batch_waits_for_it(daemon, connect, big):
    daemon.upload_held = threading.Event()
    tracker = connect(daemon)
    tracker.log_artifacts({"model": big})
    tracker.log({"a": 1.0}, step=0)
    assert daemon.uploading.wait(10)
    wait_until(lambda: daemon.points, "the row, which waits for no file")
    assert daemon.stream.items == []
    assert tracker.status().waiting_uploads == 1
    ending = threading.Thread(target=tracker.finish)
    ending.start()
    daemon.upload_held.set()
    ending.join(20)
    assert daemon.stream.finish == 0
    last = max(daemon.stream.bodies)
    assert next(number for number, body in daemon.stream.bodies.items() if body.items) < last


def test_finish_names_what_had_no_time(daemon, connect, big, caplog, monkeypatch):
    monkeypatch.setattr(limits, "FINISH_RESERVE_S", 1.0)
    daemon.upload_held = threading.Event()
    tracker = connect(daemon)
    tracker.log_artifacts({"model": big})
    with caplog.at_level(logging.WARNING, "tracker_client"):
        tracker.finish(timeout=1.5)
    daemon.upload_held.set()
    assert "1 items are not recorded: artifact 'model'" in messages(caplog)
    assert daemon.stream.finish == 0  # the run's end is recorded all the same
    assert daemon.stream.items == []


def test_what_the_daemon_refuses_is_named_and_the_rest_goes_on(daemon, connect, big, caplog):
    daemon.upload_refusal = (grpc.StatusCode.FAILED_PRECONDITION, "more than content_max_bytes")
    tracker = connect(daemon)
    with caplog.at_level(logging.WARNING, "tracker_client"):
        tracker.log_artifacts({"model": big})
        tracker.log({"a": 1.0})
        tracker.finish()
    assert "'model': more than content_max_bytes" in messages(caplog)
    assert daemon.stream.items == []
    assert len(daemon.points) == 1


def test_nothing_is_uploaded_from_a_rank_whose_items_are_not_recorded_and_it_says_so_once(
    make_daemon, connect, big
):
    daemon = make_daemon(records_items=False)
    tracker = connect(daemon, rank=1, world_size=2)
    tracker.log_artifacts({"model": big})
    for _ in range(3):
        tracker.log_table("t", ["a"], [[1]])
    tracker.finish()
    assert daemon.contents == {}
    assert daemon.stream.items == []
    (text,) = [text for text in daemon.warnings if "not recorded" in text]
    assert text.startswith("'model': tables, images, artifacts and histograms of this rank are not recorded")
    assert "item_ranks" in text
    assert "TRACKER_ITEM_RANKS" in text


def test_bad_input_of_any_kind_raises_nothing_and_is_counted(daemon, connect, caplog, tmp_path):
    class Hostile:
        def __fspath__(self):
            raise RuntimeError("no path")

    tracker = connect(daemon)
    with caplog.at_level(logging.WARNING, "tracker_client"):
        tracker.log_table("t", ["a"], ["a text"])
        tracker.log_table(7, ["a"], [[1]])
        tracker.log_image("i", object())
        tracker.log_image("i2", Hostile())
        tracker.log_artifacts({"a": tmp_path / "missing", "b": 7, "": tmp_path})
        tracker.log_artifacts(None)
    tracker.finish()
    assert tracker.status().refused_values >= 7
    assert daemon.stream.items == []


def test_calls_after_finish_are_counted(daemon, connect):
    tracker = connect(daemon)
    tracker.finish()
    tracker.log_table("t", ["a"], [[1]])
    tracker.log_image("i", b"")
    tracker.log_artifacts({})
    assert tracker.status().calls_after_finish == 3
