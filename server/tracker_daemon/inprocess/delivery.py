"""One backend of the daemon's, fed in this process: from a script's calls to what its pump delivers."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from time import time_ns
from typing import Any, ClassVar

from tracker_client.arguments import step_number
from tracker_client.backend import TrackerBackend
from tracker_client.buffer import weighed
from tracker_client.refusals import Refusals
from tracker_client.rows import RowAssembler
from tracker_client.tracker import exit_code_so_far
from tracker_client.values import snapshot
from tracker_daemon.backends.base import (
    Backend,
    Commit,
    EntryKind,
    OutboxEntry,
    RunDescription,
    RunStatus,
    SetAside,
)
from tracker_daemon.delivery.health import BackendHealth
from tracker_daemon.delivery.pump import Pump
from tracker_daemon.inprocess.description import plain_configuration
from tracker_daemon.inprocess.events import send_events_to_logging
from tracker_daemon.inprocess.outbox import MemoryOutbox
from tracker_protocol import limits

logger = logging.getLogger("tracker_daemon")


class Delivery:
    """Feeds ``backend`` what is logged, on a thread of its own, until :meth:`finish`.

    In a forked child it does nothing: the thread is not there, and the files are the parent's.
    """

    def __init__(
        self, backend: Backend, run: RunDescription, *, release: Callable[[], None] = lambda: None
    ) -> None:
        """Open the backend, on this thread; ``release`` is called at the end, if it can be reached.

        Raises as :meth:`Backend.open` does.
        """
        send_events_to_logging()
        self.refusals = Refusals()
        self._pid = os.getpid()
        self._name = backend.name
        self._release = release
        self._lock = threading.Lock()
        self._closed = False
        self._rows = RowAssembler(0)
        self._outbox = MemoryOutbox(self.refusals)
        self._pump = Pump(_Opened(backend, run), run, read=self._outbox.read, commit=_keep_nothing)
        self._pump.start()
        atexit.register(self._finish_at_exit)

    def log(self, metrics: Mapping[str, Any], step: int | None, commit: bool) -> None:  # noqa: FBT001 - TrackerBackend's
        """Take the values as they are now; see :meth:`TrackerBackend.log`."""
        at = None if step is None else step_number(step)
        if at is not None and abs(at) > limits.STEP_MAX:
            self.refusals.refuse("step", f"a step lies beyond ±{limits.STEP_MAX}", values=len(metrics))
            return
        found = snapshot(metrics, self.refusals)
        taken = weighed(found)
        for key in found.keys() - taken.row.keys():
            self.refusals.refuse(key, f"a {self._name} backend in this process takes numbers and texts only")
        call = (at, time_ns(), taken, bool(commit))
        if not self._takes("log()"):
            return
        with self._lock:
            for row in self._rows.add(call):
                self._outbox.add_row(row)
        self._pump.notify()

    def configure(self, config: Any) -> None:
        """Merge ``config`` into the run's configuration; see :mod:`tracker_client.configuration`."""
        values = plain_configuration(config, self.refusals)
        if values and self._takes("log_config()"):
            self._outbox.add(EntryKind.CONFIG, values)
            self._pump.notify()

    def health(self) -> BackendHealth:
        """How the backend is doing."""
        return self._pump.health()

    def finish(self, exit_code: int) -> None:
        """End the run, and wait until the backend has all of it, for a bounded time; once."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for row in self._rows.close():
                self._outbox.add_row(row)
        status = RunStatus.FAILED if exit_code else RunStatus.FINISHED
        reason = f"the script ended with exit code {exit_code}" if exit_code else ""
        self._outbox.add(EntryKind.END, {"status": status.value, "reason": reason})
        self._pump.notify()
        delivered = self._pump.drain(time.monotonic() + limits.DRAIN_TIMEOUT_S)
        if self._pump.stop(limits.INPROCESS_STOP_S):
            self._release()
        atexit.unregister(self._finish_at_exit)
        self._warn_of_losses(delivered=delivered)

    def _warn_of_losses(self, *, delivered: bool) -> None:
        health = self._pump.health()
        if not delivered:
            logger.warning(
                "%s: not all of the run is recorded: %s", self._name, health.reason or "its store is too slow"
            )
        if self._outbox.dropped_points:
            logger.warning("%s: %d values were dropped", self._name, self._outbox.dropped_points)

    def _finish_at_exit(self) -> None:
        self.finish(exit_code_so_far())

    def _takes(self, call: str) -> bool:
        if os.getpid() != self._pid:
            return False
        if self._closed:
            self.refusals.warn_once(
                f"{self._name}.{call}", "called after finish(); it records nothing any more"
            )
        return not self._closed


class DeliveredBackend(TrackerBackend):
    """A :class:`TrackerBackend` over a :class:`Delivery`; without one, as on other ranks, it does nothing."""

    name: ClassVar[str]

    def __init__(self, delivery: Delivery | None) -> None:
        self._delivery = delivery

    def log(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool = True) -> None:  # noqa: FBT001, FBT002 - TrackerBackend's
        """Record numbers and texts; anything else is counted and warned about once per key."""
        if self._delivery is not None:
            self._delivery.log(metrics, step, commit)

    def log_config(self, config: Any) -> None:
        """Merge ``config`` into the run's configuration."""
        if self._delivery is not None:
            self._delivery.configure(config)

    def finish(self) -> None:
        """End the run as finished, once all of it is recorded."""
        self.finish_with(0)

    def finish_with(self, exit_code: int) -> None:
        """End the run, as failed where the exit code is not 0, once all of it is recorded."""
        if self._delivery is not None:
            self._delivery.finish(exit_code)


class _Opened(Backend):
    """A backend that is open already, so that what its opening raises reaches who constructs it."""

    def __init__(self, backend: Backend, run: RunDescription) -> None:
        self._backend = backend
        self._fresh = True
        backend.open(run, None)

    @property
    def name(self) -> str:  # type: ignore[override]  # the wrapped class's
        return self._backend.name

    def open(self, run: RunDescription, state: bytes | None) -> None:
        fresh, self._fresh = self._fresh, False
        if not fresh:
            self._backend.open(run, state)

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:
        return self._backend.deliver(entries, commit)

    def set_aside(self) -> Sequence[SetAside]:
        return self._backend.set_aside()

    def close(self) -> None:
        self._backend.close()

    def location(self) -> str | None:
        return self._backend.location()


def _keep_nothing(position: int, state: bytes, delivered: int, set_aside: int) -> None:
    """A cursor that dies with the process need not be written down."""
