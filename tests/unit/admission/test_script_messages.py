"""What a class of the script is sent of an outbox entry."""

from __future__ import annotations

import struct

import numpy as np

from tracker_client.transport.message_coding import delivered_entry
from tracker_daemon.admission.script_messages import script_parts
from tracker_daemon.aggregation.values.record import RecordBlock, TextCell
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_protocol import limits


def parts_of(kind, payload):
    return [part.backend_entry for part in script_parts("mine", 2, OutboxEntry(7, kind, payload))]


def block(n, c, **fields):
    steps = np.arange(n, dtype=np.int64)
    values = np.arange(n * c, dtype=np.float64).reshape(n, c)
    columns = tuple(f"m{at}" for at in range(c))
    return RecordBlock(1, 1, columns, steps, steps, values, **fields)


def test_records_that_are_more_than_a_message_come_in_parts_that_the_client_reads_whole():
    n, c = 3_000, 20
    valid = np.random.default_rng(1).random((n, c)) < 0.5
    texts = (TextCell(0, "t", "first"), TextCell(n - 1, "t", "last"))
    sent = block(n, c, valid=valid, texts=texts)
    parts = parts_of(EntryKind.RECORDS, sent.to_bytes())
    assert len(parts) > 1
    assert max(part.ByteSize() for part in parts) < 2 * limits.SCRIPT_PART_BYTES
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
    assert {(part.backend, part.epoch, part.entry) for part in parts} == {("mine", 2, 7)}
    rows = [row for part in parts for row in delivered_entry(part).content.rows()]
    assert [step for step, _ in rows] == list(range(n))
    for at, (_, cells) in enumerate(rows):
        wanted = {f"m{k}": sent.values[at, k] for k in range(c) if valid[at, k]}
        text = {cell.column: cell.value for cell in texts if cell.row == at}
        assert cells == {**wanted, **text}


def test_numbers_keep_the_kinds_that_were_logged_in_every_part():
    n = 9_000
    kinds = np.tile(np.array([0, 1, 2], np.uint8), (n, 1))
    parts = parts_of(EntryKind.RECORDS, block(n, 3, kinds=kinds).to_bytes())
    assert len(parts) > 1
    rows = [cells for part in parts for _, cells in delivered_entry(part).content.rows()]
    assert rows == [{"m0": 3.0 * at, "m1": 3 * at + 1, "m2": True} for at in range(n)]
    assert {tuple(type(value) for value in cells.values()) for cells in rows} == {(float, int, bool)}


def test_configurations_and_the_end_come_as_they_are():
    (config,) = parts_of(EntryKind.CONFIG, b'{"lr": 0.1}')
    assert config.config == '{"lr": 0.1}'
    (end,) = parts_of(EntryKind.END, b'{"status": "FAILED", "reason": "rank 1 lost contact"}')
    assert (end.end.status, end.end.reason) == ("FAILED", "rank 1 lost contact")
    assert delivered_entry(end).content.exit_code == 1


def test_an_entry_that_cannot_be_read_has_one_part_without_content():
    (part,) = parts_of(EntryKind.RECORDS, struct.pack("<q", 3))
    assert part.WhichOneof("content") is None
    assert not part.more
