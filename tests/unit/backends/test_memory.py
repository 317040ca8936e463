"""The backend that ships for tests."""

import uuid
from pathlib import Path

from tracker_daemon.aggregation.values.item import Item
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.memory import MemoryBackend
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry


def description():
    return RunDescription(uuid.uuid4().hex, "project", "name", Path("/nowhere"))


def never(_state):
    raise AssertionError("no commit is needed on the way")


def test_what_arrived_is_read_by_run_id(make_block):
    run = description()
    backend = MemoryBackend()
    backend.open(run, None)
    records = make_block(["a", "b"], [[1.0, None], [2.0, 3.0]], texts=[(0, "b", "x")]).to_bytes()
    entries = [
        OutboxEntry(1, EntryKind.CONFIG, b'{"lr": 1, "n": 2}'),
        OutboxEntry(2, EntryKind.RECORDS, records),
        OutboxEntry(3, EntryKind.CONFIG, b'{"lr": 3}'),
        OutboxEntry(4, EntryKind.END, b'{"status": "FAILED", "reason": "rank 1 lost"}'),
    ]
    backend.deliver(entries, never)
    backend.close()
    kept = MemoryBackend.runs[run.run_id]
    assert kept.rows() == [{"step": 0, "a": 1.0, "b": "x"}, {"step": 1, "a": 2.0, "b": 3.0}]
    assert kept.config == {"lr": 3, "n": 2}
    assert (kept.status, kept.reason) == ("FAILED", "rank 1 lost")
    assert kept.wait_for(lambda found: len(found.blocks) == 1, 0)


def test_items_are_kept_in_order_and_forgotten_with_an_older_state():
    run = description()
    backend = MemoryBackend()
    backend.open(run, None)
    items = [Item("histogram", f"h{number}", number, 0, "{}") for number in range(2)]
    state = backend.deliver([OutboxEntry(1, EntryKind.ITEM, items[0].to_bytes())], never)
    backend.deliver([OutboxEntry(2, EntryKind.FILES, items[1].to_bytes())], never)
    assert MemoryBackend.runs[run.run_id].items == items
    backend.open(run, state)
    assert MemoryBackend.runs[run.run_id].items == items[:1]


def test_a_reopening_forgets_what_its_state_does_not_cover(make_block):
    run = description()
    backend = MemoryBackend()
    backend.open(run, None)
    first = OutboxEntry(1, EntryKind.RECORDS, make_block(["a"], [[1.0]]).to_bytes())
    state = backend.deliver([first], never)
    end = OutboxEntry(2, EntryKind.END, b'{"status": "FINISHED"}')
    backend.deliver([first, end], never)
    backend.close()
    backend.open(run, state)
    kept = MemoryBackend.runs[run.run_id]
    assert len(kept.blocks) == 1
    assert kept.status is None
    assert backend.location() == f"memory:{run.run_id}"
