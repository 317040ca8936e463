"""Flushes: at each flush interval, staged rows become batches and are sent.

The daemon sets the interval. A flush without new rows sends a heartbeat, which shows that the rank lives, and
names the batches that hold everything logged.
"""

from __future__ import annotations

from tracker_client.sending.batch_builder import BatchBuilder
from tracker_client.sending.link import Link
from tracker_client.sending.window import SendWindow
from tracker_protocol import limits

BLOCKED_INTERVAL_SHARE = 4
"""While a row waits for its device, the interval is this fraction of the usual one."""


class Flusher:
    """Flushes staged rows. ``due_at`` is the time of the next flush, on the monotonic clock, in seconds."""

    def __init__(self, batches: BatchBuilder, link: Link, window: SendWindow) -> None:
        self.due_at = 0.0
        self._interval_s = limits.FLUSH_INTERVAL_MIN_S
        self._batches = batches
        self._link = link
        self._window = window

    def hasten(self, *, flush: bool = True) -> None:
        """Flush at once, if ``flush``."""
        if flush:
            self.due_at = 0.0

    def set_interval(self, interval_s: float, now: float) -> None:
        """Set the interval that the daemon asks for; 0 leaves the interval as it is."""
        if interval_s > 0:
            self._interval_s = interval_s
            self.due_at = min(self.due_at, now + interval_s)

    def flush(self, now: float) -> None:
        """Encode and send what is staged; schedule the next flush.

        If more rows are staged than one drain encodes, the next flush is due at once, after the inbox.
        """
        batches = self._batches
        batches.drain(self._window.send)
        if batches.has_staged_rows and not batches.blocked:
            return
        closed = batches.close_batch()
        self._window.send()
        if not closed:
            self._send_heartbeat()
        self.due_at = now + (
            self._interval_s / BLOCKED_INTERVAL_SHARE if batches.blocked else self._interval_s
        )

    def _send_heartbeat(self) -> None:
        connection = self._link.streaming
        if connection is not None:
            # Rows that are not in a batch yet will be in the batch of the next sequence, which the heartbeat
            # then names although it does not exist yet.
            unacknowledged = self._batches.unacknowledged
            flushed = self._batches.is_flushed and unacknowledged.all_sent
            following = unacknowledged.next_sequence
            connection.heartbeat(following - 1 if flushed else following)
