"""Items: decoded as strictly as everything else, and passed on in order, by rank."""

from __future__ import annotations

import hashlib

import pytest

from tests.support.aggregation.scenario import Scenario
from tracker_daemon.aggregation.root import snapshot
from tracker_daemon.aggregation.values.item import Content, Item
from tracker_daemon.errors import MalformedBatch
from tracker_daemon.wire.batches import decode_batch
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

DIGEST = hashlib.sha256(b"content").digest()


def item(**fields: object) -> pb.Item:
    return pb.Item(**{"kind": "table", "key": "t", "step": 3, "time_ns": 7, "document": "{}", **fields})


def decoded(*items: pb.Item) -> tuple[Item, ...]:
    return decode_batch(pb.BatchBody(items=items).SerializeToString(), 0).items


def test_an_item_is_decoded_with_its_contents_and_survives_the_outbox():
    content = pb.Content(sha256=DIGEST, size_bytes=9, path="a/b.txt")
    (got,) = decoded(item(document='{"x": 1}', contents=[content], automatic_step=True))
    contents = (Content(DIGEST.hex(), 9, "a/b.txt"),)
    assert got == Item("table", "t", 3, 7, '{"x": 1}', contents, automatic_step=True)
    assert Item.from_bytes(got.to_bytes()) == got


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": ""},
        {"kind": "k" * (limits.ITEM_KIND_MAX_BYTES + 1)},
        {"key": ""},
        {"key": "é" * (limits.METRIC_NAME_MAX_BYTES // 2 + 1)},
        {"step": limits.STEP_MAX + 1},
        {"document": ""},
        {"document": "[1]"},
        {"document": '{"x": "' + "x" * limits.ITEM_DOCUMENT_MAX_BYTES + '"}'},
        {"document": '{"x":' * 100_000},
        {"contents": [pb.Content(sha256=b"short")]},
        {"contents": [pb.Content(sha256=DIGEST, path="a"), pb.Content(sha256=DIGEST, path="a")]},
        {"contents": [pb.Content(sha256=DIGEST, path="/etc/passwd")]},
        {"contents": [pb.Content(sha256=DIGEST, path="a/../../b")]},
        {"contents": [pb.Content(sha256=DIGEST, path="a//b")]},
        {"contents": [pb.Content(sha256=DIGEST, path="a\0b")]},
    ],
    ids=lambda fields: str(fields)[:60],
)
def test_an_item_that_breaks_the_protocol_rejects_its_batch(fields):
    with pytest.raises(MalformedBatch):
        decoded(item(**fields))


def test_only_the_primarys_items_are_passed_on_in_their_order():
    run = Scenario(world_size=3)
    run.give(0, "table", "b", 2)
    run.give(1, "table", "c", 1)
    run.give(0, "image", "a", 1)
    run.tick()
    assert [(item.kind, item.key, item.step, item.rank) for item in run.items] == [
        ("table", "b", 2, 0),
        ("image", "a", 1, 0),
    ]
    assert (run.fold.books.items, run.fold.books.items_left_out) == (2, 1)


def test_a_rank_that_is_named_joins_the_name():
    run = Scenario(world_size=4, primary=1, items="3")
    for rank in range(4):
        run.give(rank, "image", "x")
    run.tick()
    assert [(item.key, item.rank) for item in run.items] == [("x", 1), ("x/rank3", 3)]


def test_an_item_waits_for_no_other_rank():
    run = Scenario(world_size=2)
    run.log(0, 0, loss=1.0)
    run.give(0, "table", "t")
    assert run.tick() == []
    assert [item.key for item in run.items] == ["t"]


def test_items_of_a_fenced_process_still_come():
    run = Scenario(world_size=1)
    old = run.clients[0]
    run.join(0, attempt=2)
    old.body.items.append(item(key="late"))
    run.send(0, old)
    run.tick()
    assert [(item.key, item.attempt) for item in run.items] == [("late", 1)]


def test_the_counts_of_items_survive_a_snapshot():
    run = Scenario(world_size=2)
    run.give(0, "table", "t")
    run.give(1, "table", "t")
    run.tick()
    restored = snapshot.load(snapshot.dump(run.fold), run.rules)
    assert (restored.books.items, restored.books.items_left_out) == (1, 1)


def epochs(run: Scenario, count: int) -> None:
    """Log rows of rising epochs, two of each, which are emitted."""
    for row in range(2 * count):
        run.log(0, step=row, epoch=float(row // 2), loss=1.0)
        run.tick()


def test_an_item_that_comes_after_later_rows_has_the_axis_value_of_its_own_row():
    run = Scenario(1, step_axes="samples=epoch")
    run.give(0, "image", "samples")
    epochs(run, 3)
    run.fold = snapshot.load(snapshot.dump(run.fold), run.rules)
    for row in (4, 1, 0, 3):
        run.give(0, "image", "samples", step=row, row=row)
    run.tick()
    assert [item.axes for item in run.items] == [{}, *({"epoch": epoch} for epoch in (2.0, 0.0, 0.0, 1.0))]


def test_beyond_the_bound_an_item_has_the_oldest_axis_value_that_is_known(monkeypatch):
    monkeypatch.setattr(limits, "AXIS_CHANGES_KEPT_MAX", 2)
    run = Scenario(1, step_axes="samples=epoch")
    epochs(run, 4)
    run.give(0, "image", "samples", step=0, row=0)
    run.tick()
    assert [item.axes for item in run.items] == [{"epoch": 2.0}]
