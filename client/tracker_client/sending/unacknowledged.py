"""Batches that are not acknowledged: those to send next, to send again, or to give up.

Pure and single-threaded. Every batch gets the next sequence number and stays here until the daemon
acknowledges it. Items are in the order of their sequences: first ``sent`` (on the present connection), then
``waiting``. A lost connection moves all sent items back to ``waiting``. The next Welcome removes items that
the daemon already has.

If too many bytes are held, the oldest batches of rows that are not sent are given up. Each becomes a
:class:`LostRange`, which is declared to the daemon as a Gap in its place. If a later Welcome or
acknowledgement shows that the daemon has them after all, they no longer count as lost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tracker_client.transport.body import Body

BATCH_OVERHEAD_BYTES = 400
"""Memory that a batch needs beside its bytes."""


@dataclass
class HeldBatch:
    """A batch that the daemon may still need. ``sent``, on any connection: it may have arrived."""

    sequence: int
    body: Body
    sent: bool = False

    @property
    def last(self) -> int:
        """Its sequence."""
        return self.sequence

    @property
    def size_bytes(self) -> int:
        """The memory that it needs."""
        return len(self.body.data) + BATCH_OVERHEAD_BYTES


@dataclass
class LostRange:
    """Sequences that will never be sent. ``declared``: a Gap was sent for them, so they stay lost."""

    first: int
    last: int
    points: int
    sent: bool
    declared: bool = False


Item = HeldBatch | LostRange


class Unacknowledged:
    """The held batches of one stream, over all of its connections."""

    def __init__(self) -> None:
        self.next_sequence = 1
        self.acknowledged = 0
        self.held_batches = 0
        self.held_bytes = 0
        self.held_points = 0
        self.in_flight_bytes = 0
        self.lost_points = 0
        self._sent: deque[Item] = deque()
        self._waiting: deque[Item] = deque()

    def append(self, body: Body) -> None:
        """Give ``body`` the next sequence and keep it."""
        batch = HeldBatch(self.next_sequence, body)
        self.next_sequence += 1
        self._waiting.append(batch)
        self._count(batch, 1)

    # ---- connections -------------------------------------------------------------------------

    def rewind(self) -> None:
        """Move everything back to ``waiting``: the connection is lost."""
        self._waiting.extendleft(reversed(self._sent))
        self._sent.clear()
        self.in_flight_bytes = 0

    def resume(self, next_sequence: int) -> None:
        """Continue at ``next_sequence``, which a Welcome names; declare a loss if it is not held any more."""
        self.rewind()
        self.acknowledge(next_sequence - 1)
        self.next_sequence = max(self.next_sequence, next_sequence)
        if self._waiting:
            head = self._waiting[0]
            first = head.first if isinstance(head, LostRange) else head.sequence
        else:
            head, first = None, self.next_sequence
        if isinstance(head, LostRange) and first < next_sequence:
            head.first = next_sequence
        elif first > next_sequence:
            # The daemon's journal has lost batches that it had acknowledged; they are no longer held here.
            self._waiting.appendleft(LostRange(next_sequence, first - 1, 0, sent=True))

    def next_to_send(self) -> Item | None:
        """Return the next item to send, which is then in flight; None if nothing waits."""
        if not self._waiting:
            return None
        item = self._waiting.popleft()
        self._sent.append(item)
        if isinstance(item, HeldBatch):
            item.sent = True
            self.in_flight_bytes += item.size_bytes
        else:
            item.declared = True
        return item

    def acknowledge(self, sequence: int) -> None:
        """Release everything up to ``sequence``, which is durable at the daemon."""
        self.acknowledged = max(self.acknowledged, sequence)
        for items, in_flight in ((self._sent, True), (self._waiting, False)):
            while items and items[0].last <= sequence:
                self._release(items.popleft(), in_flight=in_flight)

    def _release(self, item: Item, *, in_flight: bool) -> None:
        if isinstance(item, HeldBatch):
            self._count(item, -1)
            self.in_flight_bytes -= item.size_bytes if in_flight else 0
        elif not item.declared:
            self.lost_points -= item.points

    def _count(self, batch: HeldBatch, sign: int) -> None:
        self.held_batches += sign
        self.held_bytes += sign * batch.size_bytes
        self.held_points += sign * batch.body.points

    # ---- bounds ----------------------------------------------------------------------------------

    def shrink(self, most_bytes: int) -> None:
        """Give up the oldest waiting batches of rows until at most ``most_bytes`` are held."""
        kept: list[Item] = []
        while self._waiting and self.held_bytes > most_bytes:
            item = self._waiting.popleft()
            if isinstance(item, HeldBatch) and item.body.droppable:
                self._count(item, -1)
                self.lost_points += item.body.points
                item = LostRange(item.sequence, item.sequence, item.body.points, item.sent)
            _append_merged(kept, item)
        self._waiting.extendleft(reversed(kept))

    # ---- views -----------------------------------------------------------------------------------

    @property
    def oldest_held(self) -> int:
        """The lowest sequence that can still be sent."""
        for items in (self._sent, self._waiting):
            for item in items:
                if isinstance(item, HeldBatch):
                    return item.sequence
        return self.next_sequence

    @property
    def in_flight(self) -> int:
        """The number of items that are sent and not acknowledged."""
        return len(self._sent)

    @property
    def all_sent(self) -> bool:
        """True if nothing waits to be sent."""
        return not self._waiting


def _append_merged(items: list[Item], item: Item) -> None:
    """Append ``item``; join neighbouring losses that cannot have arrived and are not declared.

    Losses that were sent stay apart, since the daemon may have only the first of them.
    """
    last = items[-1] if items else None
    if (
        isinstance(last, LostRange)
        and isinstance(item, LostRange)
        and not (last.sent or item.sent or last.declared or item.declared)
        and last.last + 1 == item.first
    ):
        items[-1] = LostRange(last.first, item.last, last.points + item.points, sent=False)
    else:
        items.append(item)
