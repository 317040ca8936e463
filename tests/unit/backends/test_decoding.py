"""Decoding that all backends share: rows of a block, and payloads that cannot be decoded."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends import decoding
from tracker_daemon.backends.base import RunStatus
from tracker_daemon.errors import BackendRefused, PoisonEntry
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_protocol.kinds import Kind


class State(msgspec.Struct):
    offset: int


def entry(kind, payload):
    return OutboxEntry(4, kind, payload)


def test_a_row_has_the_cells_of_its_record_and_texts_replace_numbers(make_block):
    block = make_block(
        ["a", "b"], [[1.0, None], [2.0, 3.0], [None, None]], first_step=5, texts=[(1, "b", "x")]
    )
    assert list(decoding.rows_of(block)) == [
        (5, 0, {"a": 1.0}),
        (6, 0, {"a": 2.0, "b": "x"}),
        (7, 0, {}),
    ]


def test_numbers_and_texts_are_renamed_alike(make_block):
    block = make_block(["a"], [[1.0]], texts=[(0, "t", "x")])
    (row,) = decoding.rows_of(block, str.upper)
    assert row.cells == {"A": 1.0, "T": "x"}


def test_a_row_has_numbers_of_the_kinds_that_were_logged(make_block):
    kinds = np.array([[Kind.INT, Kind.BOOL, Kind.FLOAT]], np.uint8)
    block = replace(make_block(["a", "b", "c"], [[3.0, 0.0, 1.0]]), kinds=kinds)
    for one in (block, RecordBlock.from_bytes(block.to_bytes())):
        (row,) = decoding.rows_of(one)
        assert [(value, type(value)) for value in row.cells.values()] == [
            (3, int),
            (False, bool),
            (1.0, float),
        ]


def test_a_configuration_may_hold_every_value_that_a_script_can_log():
    config = decoding.read_config(entry(EntryKind.CONFIG, b'{"lr": NaN, "name": "\\ud800"}'))
    assert math.isnan(config["lr"])
    assert config["name"] == "\ud800"


def test_the_end_has_a_status_and_a_reason():
    payload = b'{"status": "FAILED", "reason": "rank 1 lost"}'
    end = decoding.read_end(entry(EntryKind.END, payload))
    assert (end.status, end.reason) == (RunStatus.FAILED, "rank 1 lost")


@pytest.mark.parametrize(
    ("read", "kind", "payload"),
    [
        (decoding.read_block, EntryKind.RECORDS, b"\xff["),
        (decoding.read_histograms, EntryKind.HISTOGRAMS, b"\xff["),
        (decoding.read_item, EntryKind.ITEM, b"\xff["),
        (decoding.read_config, EntryKind.CONFIG, b"{"),
        (decoding.read_config, EntryKind.CONFIG, b"[1]"),
        (decoding.read_end, EntryKind.END, b'{"status": "UNHEARD OF"}'),
    ],
)
def test_a_payload_that_cannot_be_decoded_is_poison_and_its_entry_is_named(read, kind, payload):
    with pytest.raises(PoisonEntry, match="entry 4"):
        read(entry(kind, payload))


def test_a_state_that_cannot_be_decoded_is_refused_and_its_backend_is_named():
    assert decoding.read_state(None, State, "CSV") is None
    assert decoding.read_state(msgspec.msgpack.encode(State(3)), State, "CSV") == State(3)
    with pytest.raises(BackendRefused, match="CSV backend's state"):
        decoding.read_state(b"\xff", State, "CSV")
