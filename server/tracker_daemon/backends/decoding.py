"""Decoding that all backends share: the payloads of entries, a block's rows, and a backend's own state."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.shared.histograms import HistogramRow
from tracker_daemon.aggregation.values.item import Item
from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.base import RunStatus
from tracker_daemon.errors import BackendRefused, PoisonEntry
from tracker_daemon.outbox.entries import OutboxEntry
from tracker_protocol.kinds import Kind

_INTEGER_END = 2.0**63
State = TypeVar("State", bound=msgspec.Struct)
T = TypeVar("T")


def read_state(state: bytes | None, kind: type[State], backend: str) -> State | None:
    """Decode the state that ``backend`` (its name for people) last committed; None if it never did.

    Raises:
        BackendRefused: the state cannot be decoded.
    """
    if state is None:
        return None
    try:
        return msgspec.msgpack.decode(state, type=kind)
    except msgspec.DecodeError as error:
        raise BackendRefused(
            f"the {backend} backend's state in the journal cannot be read ({error}); "
            "use the version of tracker-daemon that wrote it, or a later one"
        ) from error


# ---- payloads ------------------------------------------------------------------------------------


class RunEnd(msgspec.Struct, frozen=True):
    """The payload of an END entry."""

    status: RunStatus
    reason: str = ""
    interrupted: bool = False


def read_block(entry: OutboxEntry) -> RecordBlock:
    """Decode a RECORDS entry.

    Raises:
        PoisonEntry: the payload is no record block.
    """
    return _read(entry, "records", RecordBlock.from_bytes)


def read_histograms(entry: OutboxEntry) -> HistogramRow:
    """Decode a HISTOGRAMS entry.

    Raises:
        PoisonEntry: the payload is no row of histograms.
    """
    return _read(entry, "histograms", HistogramRow.from_bytes)


def read_item(entry: OutboxEntry) -> Item:
    """Decode an ITEM or FILES entry.

    Raises:
        PoisonEntry: the payload is no item.
    """
    return _read(entry, "item", Item.from_bytes)


def read_end(entry: OutboxEntry) -> RunEnd:
    """Decode an END entry.

    Raises:
        PoisonEntry: the payload does not describe a run's end.
    """
    return _read(entry, "end of the run", _decode_end)


def read_config(entry: OutboxEntry) -> dict[str, Any]:
    """Decode a CONFIG entry.

    Raises:
        PoisonEntry: the payload is no JSON object.
    """
    config = _read(entry, "configuration", json.loads)
    if not isinstance(config, dict):
        raise PoisonEntry(f"outbox entry {entry.number} holds a configuration that is no JSON object")
    return config


def _read(entry: OutboxEntry, kind: str, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(entry.payload)
    except ValueError as error:  # the errors of msgspec, numpy and json are all ValueErrors
        raise PoisonEntry(f"outbox entry {entry.number} holds no readable {kind}: {error}") from error


_decode_end = msgspec.json.Decoder(RunEnd).decode


# ---- rows ----------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One record of a block; ``cells`` holds the values of the columns that the record has."""

    step: int
    time_ns: int
    cells: dict[str, Any]


def rows_of(block: RecordBlock, rename: Callable[[str], str] = str) -> Iterator[Row]:
    """Yield the block's records in order: numbers of the kinds that were logged, then texts.

    ``rename`` gives the key of a column in ``cells``; the default keeps the column's name.
    """
    names = [rename(column) for column in block.columns]
    texts: dict[int, dict[str, str]] = {}
    for text in block.texts:
        texts.setdefault(text.row, {})[rename(text.column)] = text.value
    valid = None if block.valid is None else block.valid.tolist()
    records = zip(
        block.steps.tolist(), block.times_ns.tolist(), numbers_of(block.values, block.kinds), strict=True
    )
    for at, (step, time_ns, values) in enumerate(records):
        cells: dict[str, Any] = dict(zip(names, values, strict=True))
        if valid is not None:
            cells = {
                name: value for name, value, there in zip(names, values, valid[at], strict=True) if there
            }
        cells.update(texts.get(at, ()))
        yield Row(step, time_ns, cells)


def numbers_of(values: NDArray[np.float64], kinds: NDArray[np.uint8] | None) -> list[list[Any]]:
    """Return the rows of ``values`` as Python's numbers, each of its kind.

    An integer that 64 bits cannot hold stays a float.
    """
    if kinds is None or not kinds.any():
        plain: list[list[Any]] = values.tolist()
        return plain
    integer = (kinds == Kind.INT) & (np.abs(values) < _INTEGER_END)
    boolean = kinds == Kind.BOOL
    numbers = values.astype(object)
    numbers[integer] = values[integer].astype(np.int64)
    numbers[boolean] = values[boolean].astype(np.bool_)
    rows: list[list[Any]] = numbers.tolist()
    return rows
