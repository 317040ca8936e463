"""The root as a backend of a node's daemon: sends what the node has gathered of a run.

The cursor's state is a :class:`LanePosition`: how many batches of the lane the root has acknowledged, in
which epoch of the node's journal. In another epoch the journal's entries may differ from those that the
root has, so the lane starts again at batch 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from tracker_daemon.backends.base import Backend, Commit, RunDescription
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry

UPSTREAM = "upstream"
"""The name of this backend's cursors."""
_BATCHES = frozenset({EntryKind.FORWARDED, EntryKind.FILES})


class LanePosition(msgspec.Struct, frozen=True, array_like=True):
    """The last batch of a lane that the root has acknowledged."""

    epoch: int
    sequence: int

    @staticmethod
    def from_bytes(state: bytes | None) -> LanePosition | None:
        """Decode a cursor's state; None (or no bytes) before the first delivery."""
        return msgspec.msgpack.decode(state, type=LanePosition) if state else None


class RootLane(Protocol):
    """One of a run's two lanes to the root: for batches, or for items with contents.

    A pump's thread calls its methods.
    """

    def epoch(self) -> int:
        """Return the journal's epoch now."""

    def deliver(self, epoch: int, first: int, payloads: Sequence[bytes]) -> None:
        """Send ``payloads`` and return once the root has acknowledged them; the first is batch ``first``.

        Raises:
            BackendUnavailable: the root cannot be reached now.
            BackendRefused: the root refuses the batches.
        """

    def problem(self) -> str:
        """Return why the lane is not connected; "" while it is."""

    def location(self) -> str:
        """Return the root's address."""


OpenLane = Callable[[RunDescription], RootLane]
"""Returns the lane of a run: for items with contents if ``files_lane`` is set, else for batches."""


class RootBackend(Backend):
    """Sends a run's batches over the lane that ``open_lane`` returns."""

    name = UPSTREAM
    separate_files = True

    def __init__(self, open_lane: OpenLane) -> None:
        self._open_lane = open_lane
        self._lane: RootLane | None = None
        self._epoch = 0
        self._sequence = 0

    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Continue after the last acknowledged batch, if that batch belongs to this epoch."""
        self._lane = self._open_lane(run)
        known = LanePosition.from_bytes(state) or LanePosition(self._lane.epoch(), 0)
        self._epoch, self._sequence = known.epoch, known.sequence
        self._start_again_in_new_epoch(self._lane)

    def _start_again_in_new_epoch(self, lane: RootLane) -> None:
        """Count from 0 in a new epoch, in which the root has no batch of the lane yet."""
        if lane.epoch() != self._epoch:
            self._epoch, self._sequence = lane.epoch(), 0

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:  # noqa: ARG002  # the interface's
        """Return once the root has acknowledged the batches among ``entries``; see :class:`Backend`."""
        assert self._lane is not None, "open() comes before deliver()"
        self._start_again_in_new_epoch(self._lane)
        payloads = [entry.payload for entry in entries if entry.kind in _BATCHES]
        if payloads:
            self._lane.deliver(self._epoch, self._sequence + 1, payloads)
            self._sequence += len(payloads)
        return msgspec.msgpack.encode(LanePosition(self._epoch, self._sequence))

    def trouble(self) -> str:
        """Return why the root is not connected, even while there is nothing to send."""
        return self._lane.problem() if self._lane is not None else ""

    def close(self) -> None:
        """Do nothing: the lane belongs to the run and outlives a delivery."""

    def files_backend(self) -> Backend:
        """Return a backend of the same kind for the lane for files."""
        return RootBackend(self._open_lane)

    def location(self) -> str | None:
        """Return the root's address."""
        return self._lane.location() if self._lane is not None else None
