"""A pump: the thread that moves one run's outbox into one backend.

Its loop opens the backend with the last committed state, reads a slice after the cursor, has the
backend deliver it and commits the cursor with the state that came back. After any error the
backend is closed and opened again with the last committed state, so that an error leaves nothing
half done. What then happens depends on the error:

* BackendUnavailable: wait and try again, with back-off, for ever;
* BackendRefused: pause until :meth:`Pump.resume`, or until the backend sees that something has changed
  (its credentials, say), trying by itself every few minutes;
* PoisonEntry: halve the slice until the entry stands alone, set that one aside, and go on.

A backend with a lane for files has two pumps for a run: one passes over FILES entries, the other is given
them alone, with the END. Each has its own cursor, and neither waits for the other.

What a backend's store refuses of an entry whose rest it takes is set aside by the backend, and counted here.

The journal's own errors end the pump: it may not go on from a position it cannot know. A restarted
daemon begins again from what the journal holds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError

import structlog

from tracker_daemon.backends.base import Backend, RunDescription
from tracker_daemon.delivery.cursor import Cursor, records_in
from tracker_daemon.delivery.health import BackendHealth, DeliveryState
from tracker_daemon.errors import BackendError, BackendRefused, JournalError, PoisonEntry
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_daemon.outbox.lanes import FILES_LANE
from tracker_protocol import limits
from tracker_protocol.backoff import Backoff

ReadOutbox = Callable[[int], list[OutboxEntry]]
"""The next entries after a number, a slice bounded in bytes; empty when there is none."""

CommitCursor = Callable[[int, bytes, int, int], None]
"""Commits position, state, delivered records and records set aside; returns once durable."""

OnLocated = Callable[[RunDescription, str, str, Mapping[str, str]], None]
"""Told once where a run is recorded: the run, the backend's name, the place, the run's handles there."""

log = structlog.get_logger(__name__)


class Pump:
    """Delivers one run's outbox to one backend, on its own thread, from ``cursor`` on.

    ``read``, ``commit`` and ``on_located`` are called on that thread and may block. The thread ends by itself
    once the END entry and all that is there is delivered; one whose cursor is past the END entry already
    waits for more, since nothing it reads tells of the end.
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
        linger_s: float = limits.DELIVERY_LINGER_S,
        paused_retry_s: float = limits.DELIVERY_PAUSED_RETRY_S,
        look_s: float = limits.DELIVERY_LOOK_S,
        on_located: OnLocated | None = None,
        behind_after_s: float = limits.DELIVERY_BEHIND_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend = backend
        self.run = run
        self._read = read
        self._commit = commit
        self._backoff = backoff or Backoff(limits.DELIVERY_BACKOFF_MIN_S, limits.DELIVERY_BACKOFF_MAX_S)
        self._linger_s = linger_s
        self._paused_retry_s = paused_retry_s
        self._look_s = look_s
        self._on_located = on_located
        self._behind_after_s = behind_after_s
        self._clock = clock
        self._name = backend.name + FILES_LANE if run.files_lane else backend.name
        self._passes_over_files = backend.separate_files and not run.files_lane
        self._log = log.bind(backend=self._name, run_id=run.run_id)
        self._thread = threading.Thread(
            target=self._work, name=f"deliver-{self._name}-{run.run_id}", daemon=True
        )
        # Only the pump's thread writes these.
        self._cursor = cursor or Cursor()
        self._opened = False
        self._ended = False
        self._failures = 0
        # What follows is guarded by the condition, which is notified of every change.
        self._changed = threading.Condition()
        self._notified = 0
        self._caught_up = -1
        self._caught_up_at = clock()
        self._kicks = 0
        self._refusals = 0
        self._drains = 0
        self._stopping = False
        self._over = False
        self._state = DeliveryState.HEALTHY
        self._reason = ""
        self._location: str | None = None
        self._handles: Mapping[str, str] = {}
        self._set_aside_reason = ""

    # ---- called from other threads ----

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def notify(self) -> bool:
        """Tell that the outbox has new entries. False once the pump has ended: it takes no more."""
        with self._changed:
            if self._over:
                return False
            self._notified += 1
            self._changed.notify_all()
            return True

    def resume(self) -> None:
        """Try again now, whatever the pump waits for."""
        with self._changed:
            self._kicks += 1
            self._changed.notify_all()

    def watch_closely(self) -> None:
        """Look often from now on whether the backend is in trouble, since little time is left to mend it."""
        with self._changed:
            self._look_s = min(self._look_s, limits.DELIVERY_LOOK_ENDING_S)
            self._changed.notify_all()

    def drain(self, deadline: float) -> bool:
        """Wait until all that was notified so far is delivered; True when it is.

        Waits are cut short meanwhile: records do not gather, and a failing backend is tried at
        once. Returns False at ``deadline`` (on the pump's clock, ``time.monotonic`` by default),
        when the pump has ended, or when the backend refuses again.
        """
        with self._changed:
            wanted, refusals = self._notified, self._refusals
            self._drains += 1
            self._kicks += 1
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._caught_up >= wanted or self._over or self._refusals > refusals,
                timeout=max(0.0, deadline - self._clock()),
            )
            self._drains -= 1
            return self._caught_up >= wanted

    @property
    def refusals(self) -> int:
        """How often the backend has refused so far, if it refuses what is left; else 0."""
        with self._changed:
            refused = self._state is DeliveryState.PAUSED and self._caught_up < self._notified
            return self._refusals if refused else 0

    @property
    def caught_up(self) -> bool:
        """Whether all that was notified is delivered or set aside."""
        with self._changed:
            return self._caught_up >= self._notified

    def stop(self, timeout_s: float | None = None) -> bool:
        """End the thread after the delivery in progress; True when it ended within ``timeout_s``."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def finished(self) -> bool:
        """Whether the run's end and all before it are delivered, or set aside."""
        with self._changed:
            return self._over and self._ended and self._caught_up == self._notified

    def health(self) -> BackendHealth:
        """How the backend is doing now."""
        with self._changed:
            state, cursor = self._state, self._cursor
            late = self._caught_up < self._notified and not self._over
            if (
                state is DeliveryState.HEALTHY
                and late
                and self._clock() - self._caught_up_at > self._behind_after_s
            ):
                state = DeliveryState.BEHIND
            return BackendHealth(
                self._name,
                state,
                self._reason,
                cursor.position,
                cursor.delivered_records,
                cursor.set_aside_records,
                self._location,
                self._set_aside_reason,
                self._handles,
            )

    # ---- the thread ----

    def _work(self) -> None:
        try:
            while not self._done():
                self._turn()
        except (JournalError, CancelledError) as error:
            self._show(DeliveryState.RETRYING, f"the journal stopped: {error}; restart the daemon")
        finally:
            self._close()
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _done(self) -> bool:
        """Whether to end; decided under the lock, so that a notification is either seen or refused."""
        with self._changed:
            finished = self._ended and self._caught_up == self._notified
            self._over = self._stopping or finished
            return self._over

    def _turn(self) -> None:
        with self._changed:
            kicks = self._kicks
        try:
            self._advance()
        except (JournalError, CancelledError):
            raise
        except BackendRefused as error:
            self._pause(str(error), kicks)
        except BackendError as error:
            self._retry_later(str(error), kicks)
        # A backend may be anyone's code, and this is the outermost frame that knows which one it
        # was: whatever it raises may stop this backend, and nothing else.
        except Exception as error:  # noqa: BLE001
            self._log.exception("a backend failed in a way it should not")
            self._retry_later(f"{type(error).__name__}: {error}", kicks)

    def _advance(self) -> None:
        """Deliver the next slice, or wait for one."""
        self._open()
        with self._changed:
            notified = self._notified
        entries = self._next()
        if entries:
            self._take(entries)
        self._failures = 0
        trouble = self.backend.trouble()
        self._show(DeliveryState.RETRYING if trouble else DeliveryState.HEALTHY, trouble)
        if not entries:
            self._wait_for_entries(notified)

    def _open(self) -> None:
        if self._opened:
            return
        self.backend.open(self.run, self._cursor.state or None)
        self._opened = True
        self._locate()

    def _take(self, entries: Sequence[OutboxEntry]) -> None:
        mine = entries
        if self._passes_over_files:
            mine = [entry for entry in entries if entry.kind is not EntryKind.FILES]
        if mine:
            self._deliver(mine)
        if self._cursor.position < entries[-1].number:
            self._move(self._cursor.beyond(entries[-1]), ())

    def _next(self) -> list[OutboxEntry]:
        """The next slice, as far as the backend can take it; more is read where that is nothing."""
        entries = self._read(self._cursor.position)
        while entries:
            ready = self.backend.count_ready(entries)
            if ready:
                return entries[:ready]
            further = self._read(entries[-1].number)
            if not further:
                break
            entries = [*entries, *further]
        return []

    def _deliver(self, entries: Sequence[OutboxEntry]) -> None:
        """Deliver a slice; a poison entry in it is found by halving."""
        try:
            self._open()
            state = self.backend.deliver(entries, self._commit_on_the_way)
        except PoisonEntry as error:
            self._close()  # A part of the slice may be stored already; the next opening undoes it.
            if len(entries) == 1:
                self._set_aside(entries[0], error)
                return
            middle = len(entries) // 2
            self._deliver(entries[:middle])
            self._deliver(entries[middle:])
            return
        refused = self.backend.set_aside()
        for one in refused:
            self._report_set_aside(one.entry, one.records, one.reason)
        self._move(self._cursor.past(entries, state, sum(one.records for one in refused)), entries)
        self._locate()

    def _commit_on_the_way(self, state: bytes) -> None:
        self._move(self._cursor.with_state(state), ())

    def _set_aside(self, entry: OutboxEntry, error: PoisonEntry) -> None:
        self._report_set_aside(entry.number, records_in(entry), str(error))
        self._move(self._cursor.past_poison(entry), (entry,))

    def _report_set_aside(self, entry: int, records: int, reason: str) -> None:
        self._log.error("set aside", entry=entry, records=records, reason=reason)
        with self._changed:
            self._set_aside_reason = reason

    def _move(self, cursor: Cursor, entries: Sequence[OutboxEntry]) -> None:
        self._commit(cursor.position, cursor.state, cursor.delivered_records, cursor.set_aside_records)
        self._cursor = cursor
        self._ended = self._ended or any(entry.kind is EntryKind.END for entry in entries)

    def _wait_for_entries(self, notified: int) -> None:
        """Note that all up to ``notified`` is delivered, then wait for more and let it gather."""
        with self._changed:
            self._caught_up, self._caught_up_at = notified, self._clock()
            self._changed.notify_all()
            if self._ended:
                return
            look_s = self._look_s
            self._changed.wait_for(
                lambda: self._stopping or self._notified != notified or self._look_s != look_s, look_s
            )
            # Being behind is counted from when there was something to fetch.
            self._caught_up_at = self._clock()
            if self._notified == notified:
                return  # the backend may be in trouble with what it has
            self._changed.wait_for(lambda: self._stopping or self._drains > 0, self._linger_s)

    def _retry_later(self, reason: str, kicks: int) -> None:
        self._failures += 1
        self._close()
        self._show(DeliveryState.RETRYING, reason)
        self._wait_for_kick(self._backoff.wait_s(self._failures), kicks)

    def _pause(self, reason: str, kicks: int) -> None:
        self._close()
        self._show(DeliveryState.PAUSED, reason)
        retry_at = self._clock() + self._paused_retry_s
        while (left_s := retry_at - self._clock()) > 0:
            if self._wait_for_kick(min(left_s, self._look_s), kicks) or self.backend.may_be_resumed():
                return

    def _wait_for_kick(self, seconds: float, kicks: int) -> bool:
        """Wait, but not beyond a resume() or drain() made since ``kicks`` was read; whether there was one."""
        with self._changed:
            kicked = self._changed.wait_for(lambda: self._stopping or self._kicks != kicks, seconds)
            if kicked:
                self._failures = 0
            return kicked

    def _close(self) -> None:
        self._opened = False
        try:
            self.backend.close()
        # As in _turn: anyone's code, and its failure to close must not end the pump.
        except Exception as error:  # noqa: BLE001
            self._log.warning("the backend did not close cleanly", error=f"{type(error).__name__}: {error}")

    def _show(self, state: DeliveryState, reason: str) -> None:
        with self._changed:
            changed = (state, reason) != (self._state, self._reason)
            self._state, self._reason = state, reason
            # With the state and not after it: a drain that begins once "paused" shows waits for the next.
            self._refusals += state is DeliveryState.PAUSED
            self._changed.notify_all()
        if changed and state is DeliveryState.HEALTHY:
            self._log.info("delivery goes on")
        elif changed:
            self._log.warning("delivery waits", state=state.value, reason=reason)

    def _locate(self) -> None:
        location, handles = self.backend.location(), self.backend.handles()
        with self._changed:
            is_first = self._location is None
            self._location, self._handles = location, handles
        if is_first and location is not None and self._on_located is not None:
            self._on_located(self.run, self.backend.name, location, handles)
