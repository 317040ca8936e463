"""Outbox entries: the unit in which a run's data is delivered to its backends. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class EntryKind(IntEnum):
    """The kind of an outbox entry, which decides how its payload is decoded."""

    RECORDS = 1
    """A RecordBlock's bytes."""
    CONFIG = 2
    """A JSON object to merge into the run's configuration: what the run was set up with."""
    END = 3
    """The run's end: a JSON object ``{"status": "FINISHED" | "FAILED", "reason": str, "interrupted": bool}``.

    ``interrupted``: Ctrl-C ended it.
    """
    ITEM = 4
    """The bytes of an Item that is complete in its document: it has no contents."""
    FILES = 5
    """The bytes of an Item with contents: a table, an image or an artifact, whose contents are files."""
    HISTOGRAMS = 6
    """A HistogramRow's bytes."""
    CONFIG_CHANGES = 7
    """A numbered JSON array of changes to the configuration: which value, when and by which rank."""
    FORWARDED = 8
    """A batch for the root. A daemon that forwards also has FILES entries for the root."""
    LATER_CONFIG = 9
    """As CONFIG, but logged after the set-up."""


CONFIGS = frozenset((EntryKind.CONFIG, EntryKind.LATER_CONFIG))


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One entry of a run's outbox; numbers are contiguous from 1 within the run."""

    number: int
    kind: EntryKind
    payload: bytes
