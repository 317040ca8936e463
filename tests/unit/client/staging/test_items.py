"""Items take their place among the rows, wait apart for their contents, and are never dropped unseen."""

from __future__ import annotations

import json
import logging
from time import time_ns

from tracker_client.staging.items import ContentReference, ItemDraft, ItemQueue
from tracker_protocol import limits


def announce(tracker, key, document, step=None):
    """Announce an item without contents, which is sent as soon as it is placed."""
    draft = ItemDraft("histogram", key, step, time_ns(), json.dumps(document))
    return tracker._sender.batches.items.announce(draft)  # noqa: SLF001 - users' calls add rows or contents


def kinds_and_steps(daemon):
    """Rows as ("row", step) and items as (kind, step), in the order of the stream."""
    from array import array

    found = []
    for _, body in sorted(daemon.stream.bodies.items()):
        for block in body.blocks:
            found += [("row", step) for step in array("q", block.steps)]
        found += [(item.kind, item.step) for item in body.items]
    return found


def test_an_item_has_the_step_of_the_rows_before_it_and_comes_after_them(daemon, connect):
    tracker = connect(daemon)
    announce(tracker, "h", {"first": True})
    tracker.log({"a": 1.0}, step=5)
    announce(tracker, "h", {})
    tracker.log({"a": 2.0})
    tracker.log({"a": 3.0}, commit=False)
    announce(tracker, "h", {})
    announce(tracker, "h", {}, step=40)
    tracker.log({"b": 3.0})
    tracker.finish()
    assert kinds_and_steps(daemon) == [
        ("histogram", 0), ("row", 5), ("histogram", 5), ("row", 6),
        ("histogram", 7), ("histogram", 40), ("row", 7),
    ]  # fmt: skip
    automatic = [item.automatic_step for item in daemon.stream.items]
    assert automatic == [True, True, True, False]
    assert json.loads(daemon.stream.items[0].document) == {"first": True}


def test_many_items_share_batches_within_the_bound(daemon, connect):
    tracker = connect(daemon)
    for number in range(40):
        announce(tracker, f"h{number}", {"counts": "x" * 20_000}, step=number)
    tracker.finish()
    assert [item.step for item in daemon.stream.items] == list(range(40))
    sizes = [body.ByteSize() for body in daemon.stream.bodies.values() if body.items]
    assert len(sizes) < 20
    assert max(sizes) <= limits.MESSAGE_MAX_BYTES


def test_items_that_the_daemon_does_not_record_are_not_sent(make_daemon, connect):
    daemon = make_daemon(records_items=False)
    tracker = connect(daemon, rank=1, world_size=2)
    announce(tracker, "h", {})
    tracker.log({"a": 1.0})
    tracker.finish()
    assert daemon.stream.items == []
    assert len(daemon.points) == 1
    assert [text.split(":")[0] for text in daemon.warnings if "item_ranks" in text] == ["'h'"]


def test_what_has_no_room_is_refused_by_name(daemon, connect, caplog):
    daemon.stop()
    tracker = connect(daemon)
    caption = "c" * limits.TEXT_VALUE_MAX_CHARACTERS
    for size in (limits.ITEM_DOCUMENT_MAX_BYTES - 100, len(caption) // 2):
        while announce(tracker, "h", "x" * size):
            pass
    with caplog.at_level(logging.WARNING, "tracker_client"):
        tracker.log_image("sample", b"\x89PNG\r\n\x1a\n", caption)
        tracker.finish(timeout=0)
    assert tracker.status().refused_values == 1
    assert any("sample" in text and "not recorded" in text for text in caplog.messages)


def test_an_item_waits_for_its_contents_and_holds_up_nothing():
    queue = ItemQueue()
    waiting, plain = ItemDraft("image", "i", None, 1, "{}", None), ItemDraft("histogram", "h", None, 2, "{}")
    assert queue.announce(waiting)
    assert queue.announce(plain)
    assert [item.key for item in queue.place(2, 7, 3)] == ["h"]
    assert queue.unfinished == [waiting]
    waiting.contents = (ContentReference(b"d" * 32, 3, "p"),)
    placed = queue.complete(waiting)
    assert (placed.step, placed.automatic_step, placed.contents) == (7, True, waiting.contents)
    assert queue.unfinished == []


def test_contents_that_come_before_the_place_do_not_send_the_item_twice():
    queue = ItemQueue()
    draft = ItemDraft("image", "i", None, 1, "{}", None)
    queue.announce(draft)
    draft.contents = ()
    assert queue.complete(draft) is None
    assert [item.key for item in queue.place(1, 0, None)] == ["i"]
    assert queue.complete(draft) is None
    assert queue.unfinished == []


def test_what_is_given_up_makes_room():
    queue = ItemQueue()
    draft = ItemDraft("image", "i", None, 1, "x" * (limits.CLIENT_ITEMS_BYTES - 1_000), None)
    assert queue.announce(draft)
    assert not queue.announce(draft)
    queue.give_up(draft)
    assert queue.announce(draft)


class Histogram:
    """As W&B's own, told by the names of its class and module."""

    __module__ = "wandb.sdk.data_types.histogram"

    def __init__(self, counts, edges):
        self.histogram, self.bins = counts, edges


def test_a_histogram_that_is_logged_is_an_item_at_the_step_of_its_row(daemon, connect):
    tracker = connect(daemon)
    tracker.log({"loss": 1.0, "h": Histogram([1, 2], [0, 1, 2])}, step=4, commit=False)
    tracker.log({"b": {"h": Histogram([3], [0, 1])}, "x": 5.0})
    tracker.log(
        {
            "h": Histogram([float("nan")], [0, 1]),
            "": Histogram([1], [0, 1]),
            3: Histogram([1], [0, 1]),
            "t": "text",
        },
        step=5,
    )
    tracker.finish()
    assert [(item.kind, item.key, item.step) for item in daemon.stream.items] == [
        ("histogram", "h", 4), ("histogram", "b.h", 4),
    ]  # fmt: skip
    assert json.loads(daemon.stream.items[0].document) == {"edges": [0.0, 1.0, 2.0], "counts": [1.0, 2.0]}
    assert {(point.name, point.step) for point in daemon.points} == {("loss", 4), ("x", 4), ("t", 5)}
    assert tracker.status().refused_values == 3


def test_a_rank_whose_items_are_not_recorded_says_so_once_of_its_histograms(make_daemon, connect):
    daemon = make_daemon(records_items=False)
    tracker = connect(daemon, rank=1, world_size=2)
    for step in range(3):
        tracker.log({"loss": 1.0, "h": Histogram([1, 2], [0, 1, 2])}, step=step)
    tracker.finish()
    assert [text.split(":")[0] for text in daemon.warnings if "item_ranks" in text] == ["'h'"]
