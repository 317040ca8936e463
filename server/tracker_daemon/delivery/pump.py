"""A pump: the thread that delivers one run's outbox to one backend.

The thread repeats one step: do the work of the present phase, then enter the phase that follows the result.
``states`` has all phases and which one follows which. The work is here for the phases that wait, and in
``lane`` for the others. After any error the backend is closed and opened again with the last committed
state, so that an error leaves nothing half done. Then:

* BackendUnavailable: the pump retries with back-off, without end;
* BackendRefused: it pauses until :meth:`Pump.resume`, or until the backend sees that something has changed
  (its credentials, say); it also tries again by itself every few minutes;
* PoisonEntry: the lane sets that entry aside and continues.

The journal's own errors end the pump: without the journal the position in the outbox is not known. A
restarted daemon begins again from the journal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass

import structlog

from tracker_daemon.backends.base import Backend, RunDescription
from tracker_daemon.delivery.cursor import Cursor
from tracker_daemon.delivery.health import BackendHealth, DeliveryState
from tracker_daemon.delivery.lane import CommitCursor, Lane, OnLocated, ReadOutbox
from tracker_daemon.delivery.progress import Progress
from tracker_daemon.delivery.states import BEGINS_ATTEMPT, Phase, PumpEvent, PumpState
from tracker_daemon.errors import BackendError, BackendRefused, JournalError
from tracker_protocol import limits
from tracker_protocol.backoff import Backoff

log = structlog.get_logger(__name__)

Result = tuple[PumpEvent, str]
"""The event that ended a step, and the reason where it has one."""


@dataclass(frozen=True, slots=True)
class PumpTiming:
    """The lengths of a pump's waits, in seconds."""

    linger_s: float = limits.DELIVERY_LINGER_S
    paused_retry_s: float = limits.DELIVERY_PAUSED_RETRY_S
    look_s: float = limits.DELIVERY_CHECK_S
    behind_after_s: float = limits.DELIVERY_BEHIND_AFTER_S


@dataclass(slots=True)
class _Requests:
    """The requests of other threads."""

    look_s: float
    """The interval at which the pump asks an idle backend for trouble."""
    stop: bool = False
    wake: bool = False
    """True if a resume or a drain was requested since the present attempt began."""
    drains: int = 0
    """Threads that wait in :meth:`Pump.drain`."""


class Pump:
    """Delivers one run's outbox to one backend, on its own thread, from ``cursor`` on.

    ``read``, ``commit`` and ``on_located`` are called on that thread and may block. The thread ends by itself
    once the END entry and everything else is delivered. A pump that begins behind the END entry does not end
    by itself, since it never reads that entry.

    Each method may be called from any thread.
    """

    def __init__(
        self,
        backend: Backend,
        run: RunDescription,
        cursor: Cursor | None = None,
        *,
        read: ReadOutbox,
        commit: CommitCursor,
        backoff: Backoff | None = None,
        timing: PumpTiming | None = None,
        on_located: OnLocated | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend = backend
        self.run = run
        self._lane = Lane(backend, run, cursor or Cursor(), read=read, commit=commit, on_located=on_located)
        self._backoff = backoff or Backoff(limits.DELIVERY_BACKOFF_MIN_S, limits.DELIVERY_BACKOFF_MAX_S)
        self._timing = timing or PumpTiming()
        self._clock = clock
        self._log = log.bind(backend=self._lane.name, run_id=run.run_id)
        self._thread = threading.Thread(
            target=self._work, name=f"deliver-{self._lane.name}-{run.run_id}", daemon=True
        )
        self._steps: Mapping[Phase, Callable[[], Result]] = {
            Phase.OPENING: self._open,
            Phase.DELIVERING: self._deliver,
            Phase.IDLE: self._idle,
            Phase.GATHERING: self._gather,
            Phase.RETRYING: self._wait_to_retry,
            Phase.PAUSED: self._pause,
        }
        # The condition guards the three below, and is notified of each of their changes.
        self._changed = threading.Condition()
        self._state = PumpState()
        self._progress = Progress(clock())
        self._requests = _Requests(self._timing.look_s)

    # ---- called from other threads ----

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def notify(self) -> bool:
        """Announce new entries in the outbox. Returns False once the pump has ended: it delivers no more."""
        with self._changed:
            if self._state.is_over:
                return False
            self._progress.notified += 1
            self._changed.notify_all()
            return True

    def resume(self) -> None:
        """Deliver at once what gathers; try again now if the pump retries or is paused."""
        with self._changed:
            self._requests.wake = True
            self._changed.notify_all()

    def watch_closely(self) -> None:
        """Ask the backend often for trouble from now on, since little time is left to mend it."""
        with self._changed:
            self._requests.look_s = min(self._requests.look_s, limits.DELIVERY_CHECK_ENDING_S)
            self._changed.notify_all()

    def drain(self, deadline: float) -> bool:
        """Wait until everything that was notified so far is delivered; return True if it is.

        Meanwhile the pump's own waits are cut short: new entries do not gather, and a failing backend is
        tried at once. Returns False at ``deadline`` (on the pump's clock, ``time.monotonic`` by default),
        if the pump has ended, or if the backend refuses again.
        """
        with self._changed:
            wanted, refusals = self._progress.notified, self._state.refusals
            self._requests.drains += 1
            self._requests.wake = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: (
                    self._progress.caught_up >= wanted
                    or self._state.is_over
                    or self._state.refusals > refusals
                ),
                timeout=max(0.0, deadline - self._clock()),
            )
            self._requests.drains -= 1
            return self._progress.caught_up >= wanted

    def stop(self, timeout_s: float | None = None) -> bool:
        """End the thread after the delivery in progress; return True if it ended within ``timeout_s``."""
        with self._changed:
            self._requests.stop = True
            self._changed.notify_all()
        if self._thread.ident is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def refusals(self) -> int:
        """The number of refusals so far if the backend refuses what is left; else 0."""
        with self._changed:
            is_refused = self._state.shown is DeliveryState.PAUSED and not self._progress.is_caught_up
            return self._state.refusals if is_refused else 0

    @property
    def caught_up(self) -> bool:
        """True if everything that was notified is delivered or set aside."""
        with self._changed:
            return self._progress.is_caught_up

    @property
    def finished(self) -> bool:
        """True if the run's end and everything before it are delivered or set aside."""
        with self._changed:
            return self._state.phase is Phase.FINISHED

    def health(self) -> BackendHealth:
        """Return the backend's state for the status."""
        with self._changed:
            state, lane = self._state, self._lane
            late = self._progress.is_late(self._clock(), self._timing.behind_after_s)
            is_behind = state.shown is DeliveryState.HEALTHY and late and not state.is_over
            return BackendHealth(
                lane.name,
                DeliveryState.BEHIND if is_behind else state.shown,
                state.reason,
                lane.cursor.position,
                lane.cursor.delivered_records,
                lane.cursor.set_aside_records,
                lane.location,
                lane.set_aside_reason,
                lane.handles,
                lane.handles_complete,
                lane.backend.place_in_run,
            )

    # ---- the thread ----

    def _work(self) -> None:
        try:
            while not self._is_over():
                self._enter(*self._step())
        except (JournalError, CancelledError) as error:
            self._enter(PumpEvent.JOURNAL_FAILED, f"the journal stopped: {error}; restart the daemon")
        finally:
            self._lane.close()
            if not self._state.is_over:  # an unexpected error ends the thread
                self._enter(PumpEvent.STOP_REQUESTED)

    def _is_over(self) -> bool:
        """End the pump if its work is done or a stop is requested; return True if it has ended.

        All under the lock, so that a notification is either seen or refused.
        """
        with self._changed:
            if self._lane.end_delivered and self._progress.is_caught_up:
                self._enter(PumpEvent.END_DELIVERED)
            elif self._requests.stop:
                self._enter(PumpEvent.STOP_REQUESTED)
            return self._state.is_over

    def _enter(self, event: PumpEvent, reason: str = "") -> None:
        """Enter the state that follows ``event``."""
        with self._changed:
            before = self._state
            # With the state and not after it: a drain that begins once "paused" is shown waits for the
            # next refusal, and one that returns finds the backend shown as healthy.
            after = self._state = before.after(event, reason)
            if event is PumpEvent.CAUGHT_UP:
                self._progress.catch_up(self._clock())
            if event in BEGINS_ATTEMPT:
                self._requests.wake = False
            self._changed.notify_all()
        if (after.shown, after.reason) == (before.shown, before.reason):
            return
        if after.shown is DeliveryState.HEALTHY:
            self._log.info("delivery continues")
        else:
            self._log.warning("delivery waits", state=after.shown.value, reason=after.reason)

    def _step(self) -> Result:
        """Do the work of the present phase; return what ended it."""
        try:
            return self._steps[self._state.phase]()
        except (JournalError, CancelledError):
            raise
        except BackendRefused as error:
            event, reason = PumpEvent.REFUSED, str(error)
        except BackendError as error:
            event, reason = PumpEvent.UNAVAILABLE, str(error)
        # A backend may be anyone's code, and this is the outermost frame that knows which one it
        # was: whatever it raises may stop this backend, and nothing else.
        except Exception as error:  # noqa: BLE001
            self._log.exception("a backend failed in a way it should not")
            event, reason = PumpEvent.UNAVAILABLE, f"{type(error).__name__}: {error}"
        self._lane.close()
        return event, reason

    # ---- a step for each phase ----

    def _open(self) -> Result:
        self._lane.open()
        return PumpEvent.OPENED, ""

    def _deliver(self) -> Result:
        with self._changed:
            self._progress.begin_reading()
        entries = self._lane.read()
        if entries:
            self._lane.deliver(entries)
        if not self._lane.is_open:
            return PumpEvent.SET_ASIDE, ""
        return (PumpEvent.DELIVERED if entries else PumpEvent.CAUGHT_UP), self.backend.trouble()

    def _idle(self) -> Result:
        """Wait for a notification, or for the time to look for trouble."""
        with self._changed:
            requests, progress = self._requests, self._progress
            if not self._lane.end_delivered:
                look_s = requests.look_s
                self._changed.wait_for(
                    lambda: requests.stop or not progress.is_caught_up or requests.look_s != look_s, look_s
                )
                # A backend is behind only from when there was something to deliver.
                progress.caught_up_at_s = self._clock()
                if not progress.is_caught_up:
                    return PumpEvent.NOTIFIED, ""
            return PumpEvent.LOOK_DUE, ""

    def _gather(self) -> Result:
        """Wait a moment for more entries, unless a drain wants them delivered at once."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._requests.stop or self._requests.drains > 0 or self._requests.wake,
                self._timing.linger_s,
            )
            return PumpEvent.GATHERED, ""

    def _wait_to_retry(self) -> Result:
        woken = self._is_woken_within(self._backoff.wait_s(self._state.failures))
        return (PumpEvent.WOKEN if woken else PumpEvent.WAITED), ""

    def _pause(self) -> Result:
        """Wait for a resume, for a change that the backend sees, or for the next try of its own."""
        retry_at_s = self._clock() + self._timing.paused_retry_s
        while (left_s := retry_at_s - self._clock()) > 0:
            if self._is_woken_within(min(left_s, self._requests.look_s)):
                return PumpEvent.WOKEN, ""
            if self.backend.may_be_resumed():
                break
        return PumpEvent.WAITED, ""

    def _is_woken_within(self, seconds: float) -> bool:
        """Wait; return True at once if a resume, a drain or a stop was requested since the attempt began."""
        with self._changed:
            return self._changed.wait_for(lambda: self._requests.stop or self._requests.wake, seconds)
