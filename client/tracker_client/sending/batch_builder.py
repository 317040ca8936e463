"""From the staging buffer to numbered batches: remove rows, resolve values, assemble, encode, keep.

The sender calls :meth:`BatchBuilder.drain` at each flush. A drain works in slices, and releases the
interpreter between them, so that a training thread never waits for more than one slice.

The builder also divides the client's memory: encoded rows, which are compact, may use up to HELD_SHARE of the
budget, and staged rows the rest.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from tracker_client.sending.unacknowledged import Unacknowledged
from tracker_client.settings.metric_options import MetricDefinition
from tracker_client.staging.buffer import DroppedRows, Entry, StagingBuffer, points_of
from tracker_client.staging.items import ItemDraft, ItemQueue, PlacedItem
from tracker_client.staging.lossy_queue import Dropped
from tracker_client.staging.resolving import resolved
from tracker_client.staging.row_items import items_of
from tracker_client.staging.rows import LoggedRow, RowAssembler
from tracker_client.transport.body import Body, config_body, definitions_body, item_bodies
from tracker_client.transport.encoder import Encoder
from tracker_client.values.exit_status import ExitStatusFile
from tracker_client.values.refusals import Refusals

SLICE_ROWS = 128
SLICES_PER_DRAIN_MAX = 128
"""After so many slices the sender looks at its inbox before it drains further."""
HELD_SHARE = 0.75
GIVE_UP_AT_ONCE_SHARE = 16
DROPPED = (
    "the oldest values are dropped, since more are logged than the daemon takes, or it is away; the run has "
    "their number as tracker/dropped_points"
)
LEFT_OUT = (
    "tables, images, artifacts and histograms of this rank are not recorded, only those of the primary rank "
    "and of the ranks in item_ranks. To record them, call setup_tracker(item_ranks='all') on all ranks, or "
    "set TRACKER_ITEM_RANKS=all for the daemon"
)


class BatchBuilder:
    """Builds batches of rows, configurations and items.

    Only the sender's thread may call its methods; others may read counts, announce items and define metrics.
    ``begin`` must be called first: the steps are unknown until the daemon has answered.
    """

    def __init__(self, staging: StagingBuffer, refusals: Refusals, buffer_bytes: int) -> None:
        self.unacknowledged = Unacknowledged()
        self.items = ItemQueue(self.warn_left_out)
        self.encoder = Encoder(refusals, lambda: staging.dropped_points)
        self._staging = staging
        self._refusals = refusals
        self._buffer_bytes = buffer_bytes
        self._held_max_bytes = int(buffer_bytes * HELD_SHARE)
        self._rows = RowAssembler(0, refusals)
        self._begun = False
        self._dropped_told = 0
        self._left_out = False
        """True once an item was left out, since this rank's items are not recorded."""
        self._definitions: deque[MetricDefinition] = deque()
        self._blocked: list[
            Entry | Dropped[DroppedRows]
        ] = []  # removed from the buffer; the first has a value on its device

    def begin(self, next_step: int, *, records_items: bool) -> None:
        """Note if the daemon records items. The first call also sets the first automatic step."""
        self.items.recorded = records_items
        if not self._begun:
            self._begun = True
            self._rows.next_step = next_step

    @property
    def begun(self) -> bool:
        """True from the first Welcome on."""
        return self._begun

    @property
    def blocked(self) -> bool:
        """True if the next row waits for a device."""
        return bool(self._blocked)

    @property
    def blocked_points(self) -> int:
        """The number of values in rows that wait for a device, or behind such a row."""
        return sum(points_of(entry) for entry in self._blocked if not isinstance(entry, Dropped))

    @property
    def has_staged_rows(self) -> bool:
        """True if the staging buffer has rows."""
        return bool(self._staging.rows)

    def drain(self, between_slices: Callable[[], None]) -> None:
        """Encode staged rows, SLICES_PER_DRAIN_MAX slices at most; stop at a row that waits for a device."""
        for _ in range(SLICES_PER_DRAIN_MAX):
            # Counted before rows are removed: the rows that were logged before these items are removed too.
            announced = len(self.items.announced)
            self._encode_slice()
            if not (self._blocked or self._staging.rows):
                self._place_items(announced)
            self._keep_within_budget()
            between_slices()
            if self._blocked or not self._staging.rows:
                return
            time.sleep(0)  # releases the interpreter

    def close_batch(self) -> bool:
        """End the present batch; return True if the batch has rows.

        The batch is marked ``flushed`` if everything that was logged is now in batches.
        """
        bodies = self.encoder.close(flushed=self.is_flushed)
        self._keep(bodies)
        self._keep_within_budget()
        return bool(bodies)

    @property
    def is_flushed(self) -> bool:
        """True if everything that was logged is encoded."""
        return not (self._staging.rows or self._blocked or self._rows.has_pending)

    def add_config(self, document: str) -> None:
        """Add a batch with a configuration, as JSON; refuse it if the buffer is full."""
        if not self._make_room(len(document)):
            self._refusals.refuse("config", "the buffer is full; this configuration is not recorded")
            return
        self._keep([config_body(document)])
        self._keep_within_budget()

    def define(self, definition: MetricDefinition) -> None:
        """Send a definition of metrics ahead of all rows that are logged later; any thread may call this."""
        self._definitions.append(definition)

    def _send_definitions(self) -> None:
        waiting = [self._definitions.popleft() for _ in range(len(self._definitions))]
        if waiting:
            self._keep([definitions_body(waiting)])

    def complete_item(self, draft: ItemDraft) -> None:
        """Add the item of ``draft``, whose contents are now durable at the daemon."""
        placed = self.items.complete(draft)
        if placed is not None:
            self._send_items([placed])
            self._keep_within_budget()

    def _send_items(self, items: list[PlacedItem]) -> None:
        if not items:
            return
        self._keep(self.encoder.close())  # rows that were logged before the items
        for body in item_bodies(items):
            if self._make_room(len(body.data)):
                self._keep([body])
            else:
                self._refusals.refuse(
                    "items",
                    "the buffer is full; some tables, images, artifacts or histograms are not recorded",
                )

    def _place_items(self, most: int, until_ns: int | None = None) -> None:
        self._send_items(self.items.place(most, self._rows.reached, self._rows.newest, until_ns))

    def _make_room(self, size_bytes: int) -> bool:
        """Give up rows, if necessary, for a batch that must not be dropped; return True if it then fits."""
        if self.unacknowledged.held_bytes + size_bytes > self._held_max_bytes:
            self.unacknowledged.shrink(self._held_max_bytes - size_bytes)
        return self.unacknowledged.held_bytes + size_bytes <= self._held_max_bytes

    def finish(self, exit_code: int | None, exit_status: ExitStatusFile | None = None) -> int:
        """Close the pending row and the stream; return the sequence of the last batch."""
        self._send_definitions()
        self._encode_rows(self._rows.end())
        self._keep(self.encoder.close())
        self._keep([self.encoder.finish(exit_code, exit_status)])
        return self.unacknowledged.next_sequence - 1

    # ---- one slice -------------------------------------------------------------------------------

    def _encode_slice(self) -> None:
        entries = self._blocked or self._staging.take(SLICE_ROWS)
        self._blocked = []
        self._send_definitions()  # after rows are removed: so those that came before these rows are sent
        announced = self.items.announced
        for position, entry in enumerate(entries):
            if isinstance(entry, Dropped):
                self._encode_rows(self._rows.skip(entry.summary.shift))
                continue
            if announced and announced[0].time_ns <= entry[1]:
                self._place_items(len(announced), entry[1])
            ready = resolved(entry, self._refusals)
            if ready is None:
                self._blocked = entries[position:]
                return
            self._encode_rows(self._rows.add(ready))

    def _encode_rows(self, rows: list[LoggedRow]) -> None:
        for row in rows:
            if row.own and not self.items.recorded:
                continue
            self._keep(self.encoder.add(row))
            if row.items and self.items.recorded:
                self._send_items(items_of(row, self._refusals))
            elif row.items:
                self.warn_left_out(str(next(iter(row.items))))

    def warn_left_out(self, key: str) -> None:
        """Warn once that this rank's items are not recorded; ``key`` is that of the first. On any thread."""
        if not self._left_out:
            self._left_out = True
            self._refusals.warn_once(key, LEFT_OUT)

    # ---- memory ----------------------------------------------------------------------------------

    def _keep(self, bodies: list[Body]) -> None:
        for body in bodies:
            self.unacknowledged.append(body)

    def _keep_within_budget(self) -> None:
        if self.unacknowledged.held_bytes > self._held_max_bytes:
            self.unacknowledged.shrink(self._held_max_bytes - self._held_max_bytes // GIVE_UP_AT_ONCE_SHARE)
        self._staging.set_budget(max(0, self._buffer_bytes - self.unacknowledged.held_bytes))
        self._tell_dropped()

    def _tell_dropped(self) -> None:
        dropped = self._staging.dropped_points + self.unacknowledged.lost_points
        if dropped > self._dropped_told:
            reason = f"the buffer of {self._buffer_bytes:,} bytes (buffer_bytes) is full; {DROPPED}"
            self._refusals.warn_each_minute("log()", reason, values=dropped - self._dropped_told)
            self._dropped_told = dropped
