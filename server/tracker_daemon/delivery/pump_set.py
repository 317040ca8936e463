"""All pumps of a daemon, one per run and backend."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

import structlog

from tracker_daemon.backends import registry
from tracker_daemon.backends.base import Backend, RunDescription
from tracker_daemon.backends.root import UPSTREAM, RootBackend, RootLane
from tracker_daemon.backends.third_party.script_class import ScriptBackend
from tracker_daemon.backends.third_party.script_link import ScriptLinks
from tracker_daemon.delivery.cursor import Cursor
from tracker_daemon.delivery.health import BackendHealth
from tracker_daemon.delivery.lane import OnLocated
from tracker_daemon.delivery.pump import Pump
from tracker_daemon.delivery.thinned_backend import is_script, thinned
from tracker_daemon.errors import SettingsError
from tracker_daemon.journal.access import BlockingJournalAccess
from tracker_daemon.journal.rows import CursorRow
from tracker_daemon.outbox.entries import OutboxEntry
from tracker_daemon.outbox.lanes import backend_of, is_files_lane
from tracker_protocol import limits

log = structlog.get_logger(__name__)


class OpenPumpLane(Protocol):
    """Opens the lane of a run to the root, on the pump's thread."""

    def __call__(self, run: RunDescription, /, resume_pump: Callable[[], None]) -> RootLane:
        """Return the lane; ``resume_pump`` is to be called whenever it is connected."""


class PumpSet:
    """Starts, wakes and stops pumps.

    ``journal`` and ``on_located`` are called on the pumps' threads. ``links`` connect to backends that are
    classes of training scripts. ``open_lane`` opens a lane to the root; None if there is no root.

    Used on the event loop, except for ``drain`` and ``stop``: they wait, so they are called on other threads.
    """

    def __init__(
        self,
        journal: BlockingJournalAccess,
        links: ScriptLinks | None = None,
        on_located: OnLocated | None = None,
        open_lane: OpenPumpLane | None = None,
    ) -> None:
        self._journal = journal
        self._on_located = on_located
        self._links = links or ScriptLinks()
        self._open_lane = open_lane
        self._pumps: dict[int, dict[str, Pump]] = {}
        self._unusable: dict[int, dict[str, str]] = {}
        self._stopped = False

    def open(self, row_id: int, run: RunDescription, cursor: CursorRow) -> None:
        """Begin or resume the delivery of a run to the lane that ``cursor`` names, unless it runs."""
        name = cursor.backend
        files_alone = is_files_lane(name)
        if self._stopped or name in self.unusable(row_id) or self._notify(row_id, name):
            return
        try:
            created, slice_bytes = self._create(row_id, run.run_id, cursor)
            backend = created if files_alone else thinned(created, run, name)
        except SettingsError as error:
            log.warning("a backend cannot be used; the others continue", run_id=run.run_id, reason=str(error))
            self._unusable.setdefault(row_id, {})[name] = str(error)
            return
        start = Cursor(
            cursor.position,
            cursor.state,
            cursor.delivered_records,
            cursor.set_aside,
            counts_items=files_alone,
        )
        committer = self._committer(row_id, name)
        reader = self._reader(row_id, slice_bytes, files_alone=files_alone)
        pump = Pump(
            backend,
            replace(run, files_lane=files_alone),
            start,
            read=reader,
            commit=committer,
            on_located=None if files_alone else self._on_located,
        )
        self._pumps.setdefault(row_id, {})[name] = pump
        pump.start()
        pump.notify()

    def _create(self, row_id: int, run_id: str, cursor: CursorRow) -> tuple[Backend, int]:
        """Return the backend, and the bytes of outbox that it is given at once."""
        if is_script(cursor.state):
            return ScriptBackend(self._links.of(run_id, cursor.backend)), limits.SCRIPT_SLICE_BYTES
        name = backend_of(cursor.backend)
        backend = self._root_backend(row_id, cursor.backend) if name == UPSTREAM else registry.create(name)
        if is_files_lane(cursor.backend):
            # A file may take minutes, and the cursor moves after a slice. So a slice is one item.
            return backend.files_backend(), 1
        return backend, limits.DELIVERY_SLICE_BYTES

    def _root_backend(self, row_id: int, cursor_name: str) -> Backend:
        if self._open_lane is None:
            msg = "the rest of this run is for the root; name the root with --upstream"
            raise SettingsError(msg)
        return RootBackend(partial(self._open_lane, resume_pump=partial(self.resume, row_id, cursor_name)))

    def _reader(
        self, row_id: int, slice_bytes: int, *, files_alone: bool
    ) -> Callable[[int], list[OutboxEntry]]:
        def read(after: int) -> list[OutboxEntry]:
            return self._journal(
                lambda journal: journal.outbox_after(
                    row_id, after, limit_bytes=slice_bytes, files_alone=files_alone
                )
            )

        return read

    def _committer(self, row_id: int, backend: str) -> Callable[[int, bytes, int, int], None]:
        def commit(position: int, state: bytes, delivered: int, set_aside: int) -> None:
            self._journal(
                lambda journal: journal.put_cursor(row_id, backend, position, state, delivered, set_aside)
            )

        return commit

    def _notify(self, row_id: int, backend: str) -> bool:
        pump = self._pumps.get(row_id, {}).get(backend)
        return pump is not None and pump.notify()

    def notify(self, row_id: int) -> bool:
        """Announce new entries of a run. Returns False if it has no pump, or one has ended: open them."""
        notified = [self._notify(row_id, backend) for backend in self._pumps.get(row_id, ())]
        return bool(notified) and all(notified)

    def resume(self, row_id: int, backend: str) -> None:
        """Have a backend that waits try again now."""
        pump = self._pumps.get(row_id, {}).get(backend)
        if pump is not None:
            pump.resume()

    def hasten(self, row_id: int) -> None:
        """Have all backends of a run take at once what there is for them: somebody waits."""
        for pump in self._pumps.get(row_id, {}).values():
            pump.resume()

    def health(self, row_id: int) -> dict[str, BackendHealth]:
        """Return the state of each backend of the run that was opened."""
        return {backend: pump.health() for backend, pump in self._pumps.get(row_id, {}).items()}

    def unusable(self, row_id: int) -> dict[str, str]:
        """Return the run's backends that cannot be used, with the reasons."""
        return self._unusable.get(row_id, {})

    def is_finished(self, row_id: int) -> bool:
        """Return True if each pump of the run has delivered everything, the run's end too."""
        return all(pump.finished for pump in self._pumps.get(row_id, {}).values())

    def forget(self, row_id: int) -> None:
        """Forget a finished run."""
        self._pumps.pop(row_id, None)
        self._unusable.pop(row_id, None)

    def _all(self) -> list[Pump]:
        # A copy: the event loop may open further pumps meanwhile.
        return [pump for pumps in list(self._pumps.values()) for pump in list(pumps.values())]

    def watch_closely(self) -> None:
        """Find soon each backend that was broken by the signal which ends the daemon, and mend it."""
        for pump in self._all():
            pump.watch_closely()

    def drain(self, timeout_s: float) -> bool:
        """Wait until all reachable backends have everything; return True if they have.

        Waits at most ``timeout_s`` seconds. A backend is unreachable if its process is gone for good.
        """
        deadline = time.monotonic() + timeout_s
        pumps = [pump for pump in self._all() if pump.backend.reachable]
        for pump in pumps:
            pump.resume()  # all before the first wait: a stuck one must not use up the others' time
        drained = [pump.finished or pump.drain(deadline) for pump in pumps]
        return all(drained)

    def refusals(self) -> dict[Pump, int]:
        """Return how often each backend has refused what is left, for :meth:`is_refused`."""
        return {pump: pump.refusals for pump in self._all()}

    def is_refused(self, before: dict[Pump, int]) -> bool:
        """Return True if everything left was refused again since ``before``: waiting does not help."""
        left = [pump for pump in self._all() if pump.backend.reachable and not pump.caught_up]
        return all(pump.refusals > before.get(pump, 0) for pump in left)

    def stop(self, timeout_s: float) -> None:
        """End each pump after its delivery in progress; leave those that take over ``timeout_s`` seconds."""
        self._stopped = True
        deadline = time.monotonic() + timeout_s
        pumps = self._all()
        for pump in pumps:
            pump.stop(0.0)
        for pump in pumps:
            pump.stop(max(0.0, deadline - time.monotonic()))
