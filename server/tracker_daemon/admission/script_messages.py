"""Messages of a bounded size that carry an outbox entry to a class of the script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec
import numpy as np
import structlog

from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

log = structlog.get_logger(__name__)
_CELL_BYTES = 9
"""The bytes of a value and of its validity flag."""
_ROW_BYTES = 8


class _End(msgspec.Struct, frozen=True):
    status: str
    reason: str = ""


def script_parts(backend: str, epoch: int, entry: OutboxEntry) -> Iterator[pb.DaemonMessage]:
    """Yield the parts of ``entry`` in order; an unreadable entry has a single part without content."""
    for part in _contents(entry):
        part.backend, part.epoch, part.entry = backend, epoch, entry.number
        yield pb.DaemonMessage(backend_entry=part)


def last_message(backend: str) -> pb.DaemonMessage:
    """Return the message after which a class receives nothing more, although the run still runs."""
    return pb.DaemonMessage(backend_entry=pb.BackendEntry(backend=backend, end=pb.RunEnd(status="RUNNING")))


def _contents(entry: OutboxEntry) -> Iterator[pb.BackendEntry]:
    contents = _CONTENTS.get(entry.kind)
    try:
        if contents is not None:
            yield from contents(entry.payload)
            return
    except ValueError:  # errors of msgspec, numpy and our decoding are all ValueErrors
        log.warning("an entry cannot be read, and no class of the script gets it", entry=entry.number)
    yield pb.BackendEntry()


def _config(payload: bytes) -> Iterator[pb.BackendEntry]:
    yield pb.BackendEntry(config=payload.decode())


def _end(payload: bytes) -> Iterator[pb.BackendEntry]:
    end = msgspec.json.decode(payload, type=_End)
    yield pb.BackendEntry(end=pb.RunEnd(status=end.status, reason=end.reason))


def _rows(payload: bytes) -> Iterator[pb.BackendEntry]:
    """Yield parts with as many whole rows as fit; each part has the column names."""
    block = RecordBlock.from_bytes(payload)
    count = max(1, limits.SCRIPT_PART_BYTES // (_ROW_BYTES + _CELL_BYTES * len(block.columns)))
    for first in range(0, len(block), count):
        rows = slice(first, first + count)
        valid = b"" if block.valid is None else block.valid[rows].astype(np.uint8).tobytes()
        records = pb.RecordRows(
            first_row=first,
            columns=block.columns,
            steps=block.steps[rows].astype("<i8").tobytes(),
            values=block.values[rows].astype("<f8").tobytes(),
            valid=valid,
            kinds=b"" if block.kinds is None else block.kinds[rows].astype(np.uint8).tobytes(),
        )
        for cell in block.texts:
            if first <= cell.row < first + count:
                records.texts.add(row=cell.row - first, column=cell.column, value=cell.value)
        yield pb.BackendEntry(records=records, more=first + count < len(block))


_CONTENTS: Mapping[EntryKind, Callable[[bytes], Iterator[pb.BackendEntry]]] = {
    EntryKind.RECORDS: _rows,
    EntryKind.CONFIG: _config,
    EntryKind.LATER_CONFIG: _config,
    EntryKind.END: _end,
}
