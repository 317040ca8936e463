"""The states of the sender. This module has no I/O and reads no clock: its callers pass the time.

Rule: everything that decides in which state the sender is lives in this file, in the tables as far as
possible. The other modules of this package report events, and read states and deadlines.

Theory of operation
===================

The sender is three small state machines:

1. The *link* (:class:`LinkState`) is the connection to the daemon. It may break and be made again at any
   time, and so this machine runs in a circle until the sender ends::

       WAITING --OPENED--> CONNECTING --WELCOMED--> STREAMING
          ^                    |                        |
          +-------LOST---------+---------LOST-----------+

2. The *stream* (:class:`StreamState`) is all that this rank sends, over all of its connections. This machine
   only moves forward. It leaves OPEN when ``finish()`` is called::

       OPEN --FINISH_ASKED--> DRAINING --LAST_BATCH_ENCODED--> RECORDING --ALL_ACKNOWLEDGED--> FORWARDING
            --FORWARDED--> DELIVERING --DELIVERED--> CLOSING_BACKENDS --BACKENDS_CLOSED--> PARTING
            --ENDED--> ENDED

3. The *patience* (:class:`Patience`) of ``finish()``: IN_TIME until the caller's timeout is over, then
   OVERTIME, a short time for the script's own backends to close with what they have.

The machines meet in four rules:

* The link decides nothing about the stream: while the link is WAITING or CONNECTING, the stream stays in its
  state, and values stay in memory.
* A stream reaches PARTING in OVERTIME too, but it counts as finished only if it was IN_TIME.
* A deadline that passes ends the stream, except that the first one begins the OVERTIME if backends of the
  script are still open. PARTING has a deadline of its own, which replaces the others.
* A stream that has ENDED has a link that is CLOSED.

Deadlines are on the monotonic clock, in seconds. NEVER is the deadline of a state that has none. Before its
end, the sender always has one deadline at least: of the link, of the stream or of the next flush.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from tracker_protocol import limits

NEVER = math.inf
PARTING_TIMEOUT_S = 1.0
"""The time that a finished stream waits for the daemon to end its side too."""


class ImpossibleTransition(Exception):
    """An event was reported in a state that does not expect the event."""


# ---- the link ------------------------------------------------------------------------------------


class LinkState(Enum):
    """States of the connection to the daemon."""

    WAITING = "waiting"
    """There is no connection. The next attempt has a time (``Reconnecting.due_at``)."""
    CONNECTING = "connecting"
    """The Hello is sent. The daemon has CONNECT_TIMEOUT_S for its Welcome."""
    STREAMING = "streaming"
    """The daemon has welcomed the stream. Only now may batches and other messages be sent."""
    CLOSED = "closed"
    """The sender has ended. There will be no further connection."""


class LinkEvent(Enum):
    """Events that change the state of the link."""

    OPENED = "opened"
    """A connection was made, and its Hello sent."""
    WELCOMED = "welcomed"
    """The daemon's Welcome arrived."""
    LOST = "lost"
    """The connection broke, was refused, was silent for too long, or could not be made."""
    ENDED = "ended"
    """The sender ends."""


LINK_TRANSITIONS: Mapping[LinkState, Mapping[LinkEvent, LinkState]] = {
    LinkState.WAITING: {
        LinkEvent.OPENED: LinkState.CONNECTING,
        LinkEvent.LOST: LinkState.WAITING,  # the attempt failed
        LinkEvent.ENDED: LinkState.CLOSED,
    },
    LinkState.CONNECTING: {
        LinkEvent.WELCOMED: LinkState.STREAMING,
        LinkEvent.LOST: LinkState.WAITING,
        LinkEvent.ENDED: LinkState.CLOSED,
    },
    LinkState.STREAMING: {
        LinkEvent.WELCOMED: LinkState.STREAMING,  # a daemon may repeat its Welcome
        LinkEvent.LOST: LinkState.WAITING,
        LinkEvent.ENDED: LinkState.CLOSED,
    },
    LinkState.CLOSED: {
        LinkEvent.ENDED: LinkState.CLOSED,
    },
}


class LinkMachine:
    """The state of the link, and the deadline of that state."""

    def __init__(self) -> None:
        self.state = LinkState.WAITING
        self.deadline = NEVER
        """The time by which the Welcome must arrive, while the link is CONNECTING."""

    def opened(self, now: float) -> None:
        """Begin to wait for the Welcome."""
        self._move(LinkEvent.OPENED, deadline=now + limits.CONNECT_TIMEOUT_S)

    def welcomed(self) -> None:
        """Begin to stream."""
        self._move(LinkEvent.WELCOMED)

    def lost(self) -> None:
        """Begin to wait for the next attempt."""
        self._move(LinkEvent.LOST)

    def ended(self) -> None:
        """Close the link for good."""
        self._move(LinkEvent.ENDED)

    def is_overdue(self, now: float) -> bool:
        """Return True if the daemon has been silent for too long."""
        return now >= self.deadline

    def _move(self, event: LinkEvent, deadline: float = NEVER) -> None:
        self.state = _next(LINK_TRANSITIONS, self.state, event)
        self.deadline = deadline


# ---- the stream ----------------------------------------------------------------------------------


class StreamState(Enum):
    """States of a rank's stream, in their order."""

    OPEN = "open"
    """The script logs. Each flush encodes the new rows as batches."""
    DRAINING = "draining"
    """``finish()`` was called. Rows and items that were logged before are still to be encoded."""
    RECORDING = "recording"
    """The last batch is encoded. The daemon's acknowledgement of that batch is awaited."""
    FORWARDING = "forwarding"
    """The daemon has everything durably. If it is a node's daemon, the root may not have all of that yet.
    With a daemon that records itself, ``finish()`` leaves this state at once."""
    DELIVERING = "delivering"
    """The daemon that records has everything durably. Its files, or its backends, may not have all of that
    yet. ``finish(wait="recorded")`` leaves this state at once."""
    CLOSING_BACKENDS = "closing backends"
    """The script's own backends process the last records and close."""
    PARTING = "parting"
    """Everything is done and this side of the stream is ended. The daemon may end its side too."""
    ENDED = "ended"
    """Nothing follows."""


class StreamEvent(Enum):
    """Events that change the state of the stream."""

    FINISH_ASKED = "finish asked"
    LAST_BATCH_ENCODED = "last batch encoded"
    ALL_ACKNOWLEDGED = "all acknowledged"
    FORWARDED = "forwarded"
    """The root has everything, or there is none."""
    DELIVERED = "delivered"
    """The daemon's backends have everything, or ``finish()`` does not wait for that."""
    BACKENDS_CLOSED = "backends closed"
    ENDED = "ended"
    """The daemon has ended its side, or a deadline has passed."""


STREAM_TRANSITIONS: Mapping[StreamState, Mapping[StreamEvent, StreamState]] = {
    StreamState.OPEN: {
        StreamEvent.FINISH_ASKED: StreamState.DRAINING,
    },
    StreamState.DRAINING: {
        StreamEvent.LAST_BATCH_ENCODED: StreamState.RECORDING,
        StreamEvent.ENDED: StreamState.ENDED,
    },
    StreamState.RECORDING: {
        StreamEvent.ALL_ACKNOWLEDGED: StreamState.FORWARDING,
        StreamEvent.ENDED: StreamState.ENDED,
    },
    StreamState.FORWARDING: {
        StreamEvent.FORWARDED: StreamState.DELIVERING,
        StreamEvent.ENDED: StreamState.ENDED,
    },
    StreamState.DELIVERING: {
        StreamEvent.DELIVERED: StreamState.CLOSING_BACKENDS,
        StreamEvent.ENDED: StreamState.ENDED,
    },
    StreamState.CLOSING_BACKENDS: {
        StreamEvent.BACKENDS_CLOSED: StreamState.PARTING,
        StreamEvent.ENDED: StreamState.ENDED,
    },
    StreamState.PARTING: {
        StreamEvent.ENDED: StreamState.ENDED,
    },
    StreamState.ENDED: {},
}


class Patience(Enum):
    """The two times of ``finish()``."""

    IN_TIME = "in time"
    """The caller's timeout is not over."""
    OVERTIME = "overtime"
    """The caller's timeout is over. The script's backends have SCRIPT_CLOSE_S to close."""


class StreamMachine:
    """The state of the stream, the patience of ``finish()``, and the deadline of both."""

    def __init__(self) -> None:
        self.state = StreamState.OPEN
        self.patience = Patience.IN_TIME
        self.deadline = NEVER
        """The time at which waiting ends in the present state."""
        self.finished = False
        """True once everything that ``finish()`` asked for is done, and was done in time."""

    @property
    def is_encoding(self) -> bool:
        """True until the last batch: rows and items may still join the stream."""
        return self.state in {StreamState.OPEN, StreamState.DRAINING}

    @property
    def is_finishing(self) -> bool:
        """True from the call of ``finish()`` to the end."""
        return self.state not in {StreamState.OPEN, StreamState.ENDED}

    def finish_asked(self, deadline: float) -> None:
        """Begin to finish. ``deadline`` is the end of the caller's timeout."""
        self._move(StreamEvent.FINISH_ASKED)
        self.deadline = deadline

    def last_batch_encoded(self) -> None:
        """Begin to wait for the daemon's acknowledgement of the last batch."""
        self._move(StreamEvent.LAST_BATCH_ENCODED)

    def all_acknowledged(self) -> None:
        """Begin to wait for the root."""
        self._move(StreamEvent.ALL_ACKNOWLEDGED)

    def forwarded(self) -> None:
        """Begin to wait for the daemon's backends."""
        self._move(StreamEvent.FORWARDED)

    def delivered(self) -> None:
        """Begin to wait for the script's backends."""
        self._move(StreamEvent.DELIVERED)

    def backends_closed(self, now: float) -> None:
        """Begin to wait for the daemon's end of the stream; decide if the stream finished in time."""
        self._move(StreamEvent.BACKENDS_CLOSED)
        self.finished = self.patience is Patience.IN_TIME
        self.deadline = now + PARTING_TIMEOUT_S

    def ended(self) -> None:
        """End the stream."""
        self._move(StreamEvent.ENDED)
        self.deadline = NEVER

    def is_overdue(self, now: float) -> bool:
        """Return True if waiting has ended in the present state."""
        return now >= self.deadline

    def may_extend(self, *, backends_open: bool) -> bool:
        """Return True if a passed deadline begins the OVERTIME, False if it ends the stream."""
        return backends_open and self.patience is Patience.IN_TIME and self.state is not StreamState.PARTING

    def extend(self, now: float) -> None:
        """Begin the OVERTIME."""
        if self.patience is Patience.OVERTIME:
            raise ImpossibleTransition("the overtime begins once")
        self.patience = Patience.OVERTIME
        self.deadline = now + limits.SCRIPT_CLOSE_S

    def _move(self, event: StreamEvent) -> None:
        self.state = _next(STREAM_TRANSITIONS, self.state, event)


State = TypeVar("State", bound=Enum)
Event = TypeVar("Event", bound=Enum)


def _next(table: Mapping[State, Mapping[Event, State]], state: State, event: Event) -> State:
    """Return the state that follows ``state`` after ``event``.

    Raises:
        ImpossibleTransition: ``event`` has no meaning in ``state``.
    """
    try:
        return table[state][event]
    except KeyError:
        raise ImpossibleTransition(f"{event.name} is impossible in the state {state.name}") from None
