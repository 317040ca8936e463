"""A cursor: the position of one backend in one run's outbox. Pure values, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in an outbox, with the backend's state and the counts that belong to it.

    ``position`` is the number of the last entry delivered or set aside, 0 before the first. ``state`` is b""
    before the first commit. Both counts are cumulative: in records, or in items if ``counts_items`` (in a
    lane for files).
    """

    position: int = 0
    state: bytes = b""
    delivered_records: int = 0
    set_aside_records: int = 0
    counts_items: bool = False

    def after_delivery(self, entries: Sequence[OutboxEntry], state: bytes, set_aside: int = 0) -> Cursor:
        """Return the cursor after a delivery of ``entries`` that returned ``state``.

        The backend set ``set_aside`` records of them aside.
        """
        return replace(
            self,
            position=entries[-1].number,
            state=state,
            delivered_records=self.delivered_records + sum(map(self._count, entries)) - set_aside,
            set_aside_records=self.set_aside_records + set_aside,
        )

    def after_skipping(self, entry: OutboxEntry) -> Cursor:
        """Return the cursor after entries up to ``entry`` that belong to another lane."""
        return replace(self, position=entry.number)

    def after_setting_aside(self, entry: OutboxEntry) -> Cursor:
        """Return the cursor after ``entry`` was set aside as a whole; the backend's state stays."""
        set_aside = self.set_aside_records + self._count(entry)
        return replace(self, position=entry.number, set_aside_records=set_aside)

    def _count(self, entry: OutboxEntry) -> int:
        return int(entry.kind is EntryKind.FILES) if self.counts_items else count_records(entry)

    def with_state(self, state: bytes) -> Cursor:
        """Return the cursor at the same position, with a state that the backend commits within a delivery."""
        return replace(self, state=state)


def count_records(entry: OutboxEntry) -> int:
    """Return the number of records in an entry: 0 for other kinds, and if the payload cannot be read.

    A FORWARDED entry, which is one batch for the root, counts as one.
    """
    if entry.kind is EntryKind.FORWARDED:
        return 1
    if entry.kind is not EntryKind.RECORDS:
        return 0
    try:
        return len(RecordBlock.from_bytes(entry.payload))
    except ValueError:
        return 0
