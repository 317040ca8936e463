"""What every backend reads in the same way: its own state, and an entry's records."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from tracker_daemon.aggregation.shared.record import RecordBlock
from tracker_daemon.errors import BackendRefused, PoisonEntry
from tracker_daemon.outbox.entries import OutboxEntry

State = TypeVar("State", bound=msgspec.Struct)


def read_state(state: bytes | None, kind: type[State], backend: str) -> State | None:
    """Decode the state that ``backend`` (its name, for people) last committed; None where it never did.

    Raises:
        BackendRefused: it cannot be read.
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


def read_block(entry: OutboxEntry) -> RecordBlock:
    """Decode the records of an entry.

    Raises:
        PoisonEntry: it holds none that can be read.
    """
    try:
        return RecordBlock.from_bytes(entry.payload)
    except ValueError as error:  # msgspec's and numpy's errors are both ValueErrors.
        raise PoisonEntry(f"outbox entry {entry.number} holds no readable records: {error}") from error
