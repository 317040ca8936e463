"""Forwarding as a backend: what a node's daemon has gathered of a run goes to the daemon above.

The cursor's state is how many batches of the lane the daemon above has acknowledged, in the journal's epoch:
in another epoch entries may be others than those that it has, and the lane begins anew.
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


class ForwardState(msgspec.Struct, frozen=True, array_like=True):
    """How far a lane has come."""

    epoch: int
    sequence: int


class ForwardLane(Protocol):
    """Where a run's batches go. Called on a pump's thread."""

    def epoch(self) -> int:
        """The journal's epoch now."""

    def deliver(self, epoch: int, first: int, payloads: Sequence[bytes]) -> None:
        """Returns once the daemon above has acknowledged ``payloads``, the first of which is batch ``first``.

        Raises:
            BackendUnavailable: it cannot be reached now.
            BackendRefused: it does not want them.
        """

    def problem(self) -> str:
        """Why it is not connected; "" while it is."""

    def location(self) -> str:
        """Where the daemon above is."""


OpenLane = Callable[[RunDescription], ForwardLane]
"""The lane of a run, for batches or, where the description says so, for items with contents."""


def read_state(state: bytes | None) -> ForwardState | None:
    """What a cursor's state says; None before the first delivery."""
    return msgspec.msgpack.decode(state, type=ForwardState) if state else None


class ForwardingBackend(Backend):
    """Gives a run's batches to the lane that ``open_lane`` finds."""

    name = UPSTREAM
    separate_files = True

    def __init__(self, open_lane: OpenLane) -> None:
        self._open_lane = open_lane
        self._lane: ForwardLane | None = None
        self._epoch = 0
        self._sequence = 0

    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Go on after the last batch that was acknowledged, where that was in this epoch."""
        self._lane = self._open_lane(run)
        known = read_state(state) or ForwardState(self._lane.epoch(), 0)
        self._epoch, self._sequence = known.epoch, known.sequence
        self._keep_to_epoch(self._lane)

    def _keep_to_epoch(self, lane: ForwardLane) -> None:
        """In another epoch the daemon above has nothing of the lane yet."""
        if lane.epoch() != self._epoch:
            self._epoch, self._sequence = lane.epoch(), 0

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:  # noqa: ARG002  # the interface's
        """Have the batches among ``entries`` acknowledged; see :class:`Backend`."""
        assert self._lane is not None, "deliver() comes after open()"
        self._keep_to_epoch(self._lane)
        payloads = [entry.payload for entry in entries if entry.kind in _BATCHES]
        if payloads:
            self._lane.deliver(self._epoch, self._sequence + 1, payloads)
            self._sequence += len(payloads)
        return msgspec.msgpack.encode(ForwardState(self._epoch, self._sequence))

    def trouble(self) -> str:
        """Why the daemon above is not connected, though there may be nothing for it now."""
        return self._lane.problem() if self._lane is not None else ""

    def close(self) -> None:
        """Do nothing: the lane is the run's, and not this delivery's."""

    def files_backend(self) -> Backend:
        """The same for the other lane."""
        return ForwardingBackend(self._open_lane)

    def location(self) -> str | None:
        """Where the daemon above is."""
        return self._lane.location() if self._lane is not None else None
