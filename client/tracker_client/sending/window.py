"""The send window: bounds on what is sent and not acknowledged."""

from __future__ import annotations

from tracker_client.sending.link import Link
from tracker_client.sending.unacknowledged import HeldBatch, Unacknowledged

WINDOW_BYTES_MAX = 4 * 1024 * 1024
"""The most bytes that are sent and not acknowledged."""
WINDOW_BATCHES_MAX = 1_024
WINDOW_BUFFER_SHARE = 4
"""The window is at most this fraction of the client's buffer."""


class SendWindow:
    """Sends batches in their order, as far as the window allows."""

    def __init__(self, link: Link, unacknowledged: Unacknowledged, buffer_bytes: int) -> None:
        self._link = link
        self._unacknowledged = unacknowledged
        self._max_bytes = min(WINDOW_BYTES_MAX, buffer_bytes // WINDOW_BUFFER_SHARE)

    def send(self) -> None:
        """Send waiting batches, and declare lost ones, until none waits or the window is full."""
        connection = self._link.streaming
        while connection is not None and self._has_room:
            item = self._unacknowledged.next_to_send()
            if item is None:
                return
            if isinstance(item, HeldBatch):
                connection.batch(item.sequence, item.body.data_after(self._link.names_known))
            else:
                connection.gap(item.first, item.last, item.points)

    @property
    def _has_room(self) -> bool:
        in_flight = self._unacknowledged
        return in_flight.in_flight_bytes < self._max_bytes and in_flight.in_flight < WINDOW_BATCHES_MAX
