"""The states of a pump: every rule about which state follows which, without I/O and without a clock.

Two machines
------------
A pump has two states, and they change at the same events.

1. The *phase*: what the pump's thread does now. The table ``TRANSITIONS`` has all of it.
2. The *shown* state: what ``status`` shows of the backend. It is the result of the last attempt. It therefore
   stays while the thread tries again: a backend that refused is shown as paused until an attempt succeeds, or
   fails in another way.

An *attempt* is one try to open the backend and to deliver one slice of the outbox.

Phases
------
=============  =====================================================  ==================================
phase          the pump's thread                                      ``status`` shows
=============  =====================================================  ==================================
OPENING        opens the backend with the last committed state        the result of the last attempt
DELIVERING     reads the next slice and has the backend deliver it    the result of the last attempt
IDLE           waits: everything is delivered                         healthy; retrying, if the backend
                                                                      itself still retries an upload
GATHERING      waits a moment, so that new entries gather             as IDLE
RETRYING       waits with back-off: the store cannot be reached       retrying, with the reason
PAUSED         waits for the user's help                              paused, with the reason
FINISHED       has ended: the run's end is delivered                  the result of the last attempt
STOPPED        has ended: the daemon wanted it to                     the result of the last attempt
FAILED         has ended: the journal failed                          retrying: restart the daemon
=============  =====================================================  ==================================

In all waiting phases a request to stop ends the wait. "Behind" is no state of a pump: a backend is shown as
behind while it is healthy and has not caught up for some time, so that depends on the clock.

A poison entry changes no phase while it is searched for: that happens within one delivery. Once it is set
aside the backend is closed, so OPENING follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto

from tracker_daemon.delivery.health import DeliveryState


class Phase(Enum):
    """The activity of a pump's thread; see the module's table."""

    OPENING = auto()
    DELIVERING = auto()
    IDLE = auto()
    GATHERING = auto()
    RETRYING = auto()
    PAUSED = auto()
    FINISHED = auto()
    STOPPED = auto()
    FAILED = auto()


class PumpEvent(Enum):
    """The result of one step of a pump, which decides the next phase."""

    OPENED = auto()
    """The backend is open."""
    DELIVERED = auto()
    """A slice is delivered and committed."""
    SET_ASIDE = auto()
    """A slice is delivered, less a poison entry at its end. The backend is closed."""
    CAUGHT_UP = auto()
    """The outbox holds nothing more that the backend can take."""
    LOOK_DUE = auto()
    """It is time to read the outbox again, and to ask the backend for trouble with what it already has."""
    NOTIFIED = auto()
    """The outbox has new entries."""
    GATHERED = auto()
    """New entries had their time to gather, or a drain wants them at once."""
    UNAVAILABLE = auto()
    """The store cannot be reached or written now. The backend is closed."""
    REFUSED = auto()
    """The store needs the user's help (credentials, permissions). The backend is closed."""
    WAITED = auto()
    """The wait before the next attempt is over."""
    WOKEN = auto()
    """A resume or a drain cut the wait short."""
    END_DELIVERED = auto()
    """The run's end and everything notified is delivered or set aside."""
    STOP_REQUESTED = auto()
    """The daemon wants the pump to end."""
    JOURNAL_FAILED = auto()
    """The journal raised: the position in the outbox is not known any more."""


_ENDINGS = {
    PumpEvent.END_DELIVERED: Phase.FINISHED,
    PumpEvent.STOP_REQUESTED: Phase.STOPPED,
    PumpEvent.JOURNAL_FAILED: Phase.FAILED,
}
_FAILURES = {PumpEvent.UNAVAILABLE: Phase.RETRYING, PumpEvent.REFUSED: Phase.PAUSED}
_AGAIN = {PumpEvent.WAITED: Phase.OPENING, PumpEvent.WOKEN: Phase.OPENING}

TRANSITIONS: Mapping[Phase, Mapping[PumpEvent, Phase]] = {
    Phase.OPENING: {PumpEvent.OPENED: Phase.DELIVERING, **_FAILURES, **_ENDINGS},
    Phase.DELIVERING: {
        PumpEvent.DELIVERED: Phase.DELIVERING,
        PumpEvent.SET_ASIDE: Phase.OPENING,
        PumpEvent.CAUGHT_UP: Phase.IDLE,
        **_FAILURES,
        **_ENDINGS,
    },
    Phase.IDLE: {PumpEvent.LOOK_DUE: Phase.DELIVERING, PumpEvent.NOTIFIED: Phase.GATHERING, **_ENDINGS},
    Phase.GATHERING: {PumpEvent.GATHERED: Phase.DELIVERING, **_ENDINGS},
    Phase.RETRYING: {**_AGAIN, **_ENDINGS},
    # A paused backend is asked whether the cause of its refusal may be gone, and can fail at that.
    Phase.PAUSED: {**_AGAIN, **_FAILURES, **_ENDINGS},
    Phase.FINISHED: {},
    Phase.STOPPED: {},
    Phase.FAILED: {},
}

BEGINS_ATTEMPT = frozenset(
    {
        PumpEvent.DELIVERED,
        PumpEvent.SET_ASIDE,
        PumpEvent.LOOK_DUE,
        PumpEvent.GATHERED,
        PumpEvent.WAITED,
        PumpEvent.WOKEN,
    }
)
"""Events after which a new attempt begins. (OPENED continues the attempt that opened the backend.)"""


@dataclass(frozen=True, slots=True)
class PumpState:
    """A pump's phase, and the result of its last attempt."""

    phase: Phase = Phase.OPENING
    shown: DeliveryState = DeliveryState.HEALTHY
    """Never BEHIND."""
    reason: str = ""
    """The reason why ``shown`` is not healthy; "" if it is."""
    failures: int = 0
    """Attempts in a row that found the store unavailable."""
    refusals: int = 0
    """The number of the backend's refusals since the pump began."""

    @property
    def is_over(self) -> bool:
        """True if the pump has ended, or does nothing more than close its backend."""
        return not TRANSITIONS[self.phase]

    def after(self, event: PumpEvent, reason: str = "") -> PumpState:
        """Return the state that follows ``event``.

        ``reason`` explains a failure. With DELIVERED and CAUGHT_UP it is the backend's trouble with what it
        already has; "" if there is none.

        Raises:
            ValueError: the event cannot happen in this phase.
        """
        phase = TRANSITIONS[self.phase].get(event)
        if phase is None:
            raise ValueError(f"a pump cannot be {event.name} while it is {self.phase.name}")
        moved = replace(self, phase=phase)
        if event in (PumpEvent.DELIVERED, PumpEvent.CAUGHT_UP):
            shown = DeliveryState.RETRYING if reason else DeliveryState.HEALTHY
            return replace(moved, shown=shown, reason=reason, failures=0)
        if event is PumpEvent.UNAVAILABLE:
            return replace(moved, shown=DeliveryState.RETRYING, reason=reason, failures=self.failures + 1)
        if event is PumpEvent.REFUSED:
            return replace(moved, shown=DeliveryState.PAUSED, reason=reason, refusals=self.refusals + 1)
        if event is PumpEvent.JOURNAL_FAILED:
            return replace(moved, shown=DeliveryState.RETRYING, reason=reason)
        if event in (PumpEvent.SET_ASIDE, PumpEvent.WOKEN):
            return replace(moved, failures=0)
        return moved
