"""A cursor: how far one backend has got in one run's outbox. Pure values, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tracker_daemon.aggregation.shared.record import RecordBlock
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position reached, the backend's state there, and the books up to there.

    ``position`` is an entry's number, 0 before the first; ``state`` is b"" before the first commit.
    Both counts are cumulative, in records; in a lane for files in items.
    """

    position: int = 0
    state: bytes = b""
    delivered_records: int = 0
    set_aside_records: int = 0
    counts_items: bool = False

    def past(self, entries: Sequence[OutboxEntry], state: bytes, set_aside: int = 0) -> Cursor:
        """After the delivery of ``entries``, less ``set_aside`` records, which returned ``state``."""
        return replace(
            self,
            position=entries[-1].number,
            state=state,
            delivered_records=self.delivered_records + sum(map(self._counted, entries)) - set_aside,
            set_aside_records=self.set_aside_records + set_aside,
        )

    def beyond(self, entry: OutboxEntry) -> Cursor:
        """After entries, up to ``entry``, that are not this cursor's."""
        return replace(self, position=entry.number)

    def past_poison(self, entry: OutboxEntry) -> Cursor:
        """After ``entry`` was set aside; the backend's state stays."""
        set_aside = self.set_aside_records + self._counted(entry)
        return replace(self, position=entry.number, set_aside_records=set_aside)

    def _counted(self, entry: OutboxEntry) -> int:
        return int(entry.kind is EntryKind.FILES) if self.counts_items else records_in(entry)

    def with_state(self, state: bytes) -> Cursor:
        """At the same position, with a state that the backend commits on the way."""
        return replace(self, state=state)


def records_in(entry: OutboxEntry) -> int:
    """How many records an entry holds: none for other kinds, and for what cannot be read.

    Of what is forwarded each batch counts as one.
    """
    if entry.kind is EntryKind.FORWARDED:
        return 1
    if entry.kind is not EntryKind.RECORDS:
        return 0
    try:
        return len(RecordBlock.from_bytes(entry.payload))
    except ValueError:
        return 0
