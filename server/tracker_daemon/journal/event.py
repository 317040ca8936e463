"""Events: the journal's ordered log, one value object each, and their checksum."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

from tracker_daemon.errors import JournalError

SEQUENCE_MAX = 2**62
"""Sequences stay below this, so that what a client sends always fits SQLite's signed integers."""

_GAP = struct.Struct("<QQ")
_HEADER = struct.Struct("<qqqqqq")


class EventKind(IntEnum):
    """The kind of an event. The journal itself reads only BATCH, REJECTED and GAP: they use up sequences."""

    BATCH = 1
    HELLO = 2
    FLUSHED = 3
    DEADLINE = 4
    LOST = 5
    ABSENT = 6
    GAP = 7
    REJECTED = 8
    STARTED = 9
    OVERFLOW = 10
    LAUNCH_ENDED = 11
    NOTICE = 12
    FORWARD = 13
    ENDED_BY_ROOT = 14
    FLUSHES_WANTED = 15
    EXIT_STATUS = 16
    VANISHED = 17


@dataclass(frozen=True, slots=True)
class Event:
    """One event to append. ``payload`` is opaque to the journal, save that of a GAP."""

    run: int
    """The run's row id."""
    kind: EventKind
    stream: bytes
    """The stream's 16 bytes; b"" if the event concerns no stream."""
    sequence: int
    """The stream's sequence at the event; 0 without a stream."""
    payload: bytes


@dataclass(frozen=True, slots=True)
class StoredEvent(Event):
    """An event with its place in the global order, and the tick and time that it was committed in."""

    position: int
    tick: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Gap:
    """The payload of a GAP event: sequences up to ``to_sequence``, with ``points``, will never arrive."""

    to_sequence: int
    points: int

    def to_bytes(self) -> bytes:
        """Encode as two little-endian unsigned 64-bit integers."""
        return _GAP.pack(self.to_sequence, self.points)

    @staticmethod
    def from_bytes(payload: bytes) -> Gap:
        """Decode what :meth:`to_bytes` made. Raises JournalError for anything else."""
        if len(payload) != _GAP.size:
            raise JournalError(f"a GAP's payload has {_GAP.size} bytes, not {len(payload)}")
        return Gap(*_GAP.unpack(payload))


def sequence_after(event: Event) -> int | None:
    """Return the next sequence of the stream after ``event``; None if the event uses up no sequence.

    Raises:
        JournalError: a gap that ends before it begins, or a sequence beyond SEQUENCE_MAX.
    """
    if event.kind is EventKind.BATCH or event.kind is EventKind.REJECTED:
        last = event.sequence
    elif event.kind is EventKind.GAP:
        last = Gap.from_bytes(event.payload).to_sequence
    else:
        return None
    if not event.sequence <= last < SEQUENCE_MAX:
        raise JournalError(f"a {event.kind.name} from sequence {event.sequence} to {last} is impossible")
    return last + 1


def event_checksum(event: Event, position: int, tick: int, time_ns: int) -> int:
    """Return the CRC-32 over every field of a stored event, so that damage of any field is noticed."""
    header = _HEADER.pack(position, event.run, tick, time_ns, event.kind, event.sequence)
    return zlib.crc32(event.payload, zlib.crc32(event.stream, zlib.crc32(header)))


def record_checksum(numbers: tuple[int, ...], payload: bytes) -> int:
    """Return the CRC-32 of a record that is some integers and a payload."""
    return zlib.crc32(payload, zlib.crc32(struct.pack(f"<{len(numbers)}q", *numbers)))
