"""Delivers the daemon's records to the script's own classes, each class on its own thread.

The daemon sends outbox entries, in parts, and keeps a cursor for each class. An entry is acknowledged once
the class has taken it. After a reconnection the daemon sends unacknowledged entries again. Rows that the
class already has are acknowledged and not given to it again; rows that are already queued are not queued
again. So a class gets each record once, as long as this process lives.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

from tracker_client.backends.calls import AnyBackend, call, finish
from tracker_client.backends.script_entries import (
    DeliveredConfig,
    DeliveredEnd,
    DeliveredEntry,
    DeliveredRows,
    DirectCall,
    TakenEntry,
)
from tracker_client.values.refusals import Refusals
from tracker_client.values.tally import Room
from tracker_protocol import limits

Construct = Callable[[], AnyBackend]
Post = Callable[[TakenEntry], None]


class BackendWorker:
    """One class and its thread, from :meth:`begin` on; calls of the tracker wait for that.

    Except where noted, methods are called on the sender's thread.
    """

    def __init__(self, name: str, construct: Construct, post: Post, refusals: Refusals) -> None:
        self.name = name
        self.backend: AnyBackend | None = None
        self.built = threading.Event()
        """Set once the class is constructed, or its construction has failed."""
        self.closed = threading.Event()
        self._construct = construct
        self._post = post
        self._refusals = refusals
        self._parts: SimpleQueue[tuple[DeliveredEntry, int] | DirectCall | None] = SimpleQueue()
        self._room_for_calls = Room(limits.SCRIPT_CALLS_WAITING_MAX)
        self._offered = (0, 0, 0)
        """Epoch, entry and row up to which parts are queued."""
        self._taken = (0, 0)
        """Epoch and entry up to which the class has taken all parts."""
        self._closing = False
        self._exit_code = 0
        self.failures = 0
        """The number of the class's calls that raised."""
        self._refused = 0
        self._problem = ""
        self._is_begun = False

    # ---- the sender's thread ---------------------------------------------------------------------

    def begin(self) -> None:
        """Construct the class on its own thread, once."""
        if not self._is_begun:
            self._is_begun = True
            threading.Thread(target=self._main, name=f"tracker-backend-{self.name}", daemon=True).start()

    def discard(self) -> None:
        """Drop the calls that wait, if the class is not begun; it is not needed."""
        if not self._is_begun:
            self.closed.set()
            self.built.set()
            self._parts = SimpleQueue()

    @property
    def is_discarded(self) -> bool:
        """True if the class was not needed, and never begun."""
        return self.closed.is_set() and not self._is_begun

    @property
    def is_open(self) -> bool:
        """True if the class is begun and has not finished."""
        return self._is_begun and not self.closed.is_set()

    def offer(self, part: DeliveredEntry) -> None:
        """Queue a part that is new; acknowledge an entry again that the class has already taken."""
        at = (part.epoch, part.entry)
        if self.closed.is_set():
            self.report_closed()
        elif part.entry == 0:
            self._parts.put((part, 0))
        elif at <= self._taken:
            if not part.more:
                self._post(TakenEntry(self.name, part.epoch, part.entry))
        elif (*at, part.through_row) > self._offered:
            first = part.content.first_row if isinstance(part.content, DeliveredRows) else 0
            skip = max(0, self._offered[2] - first) if self._offered[:2] == at else 0
            self._offered = (*at, part.through_row)
            self._parts.put((part, skip))

    def close(self, exit_code: int = 0) -> None:
        """Finish the class as soon as its current call returns; drop the queued parts."""
        self._exit_code = exit_code
        self._closing = True
        self._parts.put(None)

    def report_closed(self) -> None:
        """Report to the daemon that this class takes no further entry."""
        self._post(TakenEntry(self.name, problem=self._problem, closed=True))

    # ---- any thread ------------------------------------------------------------------------------

    def pass_on(self, direct: DirectCall) -> None:
        """Queue the tracker's call for the class, unless too many calls wait for it already."""
        if self.closed.is_set():
            return
        if self._room_for_calls.reserve():
            self._parts.put(direct)
        else:
            self.failures += 1
            self._refusals.warn_once(
                f"backend {self.name}.{direct.method}()",
                f"{limits.SCRIPT_CALLS_WAITING_MAX} calls wait for it; further ones are left out and counted",
            )

    # ---- the class's thread ----------------------------------------------------------------------

    def _main(self) -> None:
        last: DeliveredEntry | None = None
        try:
            try:
                self.backend = self._construct()
            finally:
                self.built.set()
            last = self._take_parts()
            end = last.content if last is not None else None
            code = end.exit_code if isinstance(end, DeliveredEnd) else self._exit_code
            self._call("finish", finish, self.backend, code)
        # The thread's outermost frame: any exception of the class's code, SystemExit included, must end this
        # class alone.
        except BaseException as error:  # noqa: BLE001
            self._problem = f"it raised {error!r}"
            self._refusals.warn_once(
                f"backend {self.name}",
                f"{error!r} ended it; it records nothing more, and other backends continue",
            )
        finally:
            self.closed.set()
            if last is not None and last.entry:
                self._acknowledge(last)
            self.report_closed()

    def _take_parts(self) -> DeliveredEntry | None:
        """Give the class its parts and calls; return the run's end, or None if the class is closed before."""
        while (item := self._parts.get()) is not None and not self._closing:
            if isinstance(item, DirectCall):
                self._room_for_calls.release()
                self._call(item.method, call, self.backend, item.method, *item.arguments, **item.named)
                continue
            part, skip = item
            if isinstance(part.content, DeliveredEnd):
                return part
            self._give(part, skip)
            if not part.more:
                self._acknowledge(part)
        return None

    def _give(self, part: DeliveredEntry, skip: int) -> None:
        backend, content = self.backend, part.content
        assert backend is not None
        if isinstance(content, DeliveredConfig):
            self._call("log_config", call, backend, "log_config", json.loads(content.document))
        elif isinstance(content, DeliveredRows):
            for step, metrics in content.rows(skip):
                if self._closing:
                    return
                if not self._call("log", backend.log, metrics, step=step, commit=True):
                    self._refused += 1

    def _call(self, method: str, action: Callable[..., object], *arguments: Any, **named: Any) -> bool:
        """Make a call of the class's ``method``; return False, and warn once, if it raises."""
        try:
            action(*arguments, **named)
        except Exception as error:  # noqa: BLE001 - the class is the user's code
            self.failures += 1
            self._problem = f"{method}() raised {error!r}"
            self._refusals.warn_once(
                f"backend {self.name}", f"{self._problem}; this is counted, and recording continues"
            )
            return False
        return True

    def _acknowledge(self, part: DeliveredEntry) -> None:
        if self._closing and isinstance(part.content, DeliveredRows):
            return  # the class may not have received all rows of this part
        refused, self._refused = self._refused, 0
        self._taken = (part.epoch, part.entry)
        self._post(TakenEntry(self.name, part.epoch, part.entry, refused, self._problem if refused else ""))


class ScriptBackends:
    """The workers of one run in this process; ``constructors`` are those of the classes it may construct."""

    def __init__(self, constructors: Mapping[str, Construct], refusals: Refusals) -> None:
        self._constructors = constructors
        self._refusals = refusals
        self._workers: dict[str, BackendWorker] = {}
        self._post: Post = _ignore

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes that this process may construct."""
        return tuple(self._constructors)

    def start(self, post: Post, *, at_once: bool) -> None:
        """Send acknowledgements to ``post`` from now on.

        ``at_once``: construct the classes now, and not when the daemon asks for them.
        """
        self._post = post
        self._workers = {name: self._new_worker(name) for name in self._constructors}
        for worker in self._workers.values() if at_once else ():
            worker.begin()

    def get(self, name: str, timeout_s: float) -> AnyBackend | None:
        """Return the instance of that name, or None; wait up to ``timeout_s`` for its construction."""
        worker = self._workers.get(name)
        if worker is None or not worker.built.wait(timeout_s):
            return None
        return worker.backend

    def pass_on(self, direct: DirectCall) -> None:
        """Make the call to each class in this process, on the class's own thread."""
        for worker in tuple(self._workers.values()):
            worker.pass_on(direct)

    # ---- the sender's thread ---------------------------------------------------------------------

    def welcomed(self, names: tuple[str, ...]) -> None:
        """Start the classes that the daemon delivers to (``names``); close others, with a warning."""
        for name in names:
            worker = self._worker(name)
            if worker is not None and worker.closed.is_set():
                worker.report_closed()
        for name, worker in self._workers.items():
            worker.discard()
            if name not in names and worker.is_open:
                self._refusals.warn_once(
                    f"backend {name}",
                    "the daemon delivers no rows to it in this process; it delivers to the classes of the "
                    "primary rank that register_backend named before setup_tracker on every rank",
                )
                worker.close()

    def offer(self, part: DeliveredEntry) -> None:
        """Queue a part for the class that it is addressed to."""
        worker = self._worker(part.backend)
        if worker is not None:
            worker.offer(part)

    def close(self, exit_code: int = 0) -> None:
        """Finish all classes as soon as their current calls return."""
        for worker in self._workers.values():
            worker.discard()
            worker.close(exit_code)

    @property
    def failures(self) -> int:
        """The number of the classes' calls that raised."""
        return sum(worker.failures for worker in tuple(self._workers.values()))

    @property
    def open_names(self) -> list[str]:
        """The names of the classes that have not finished yet."""
        return [name for name, worker in self._workers.items() if worker.is_open]

    def _worker(self, name: str) -> BackendWorker | None:
        """Return the class of that name, begun; None if this process may not construct it."""
        worker = self._workers.get(name)
        if worker is not None and worker.is_discarded:
            worker = self._workers[name] = self._new_worker(name)
        if worker is not None:
            worker.begin()
        return worker

    def _new_worker(self, name: str) -> BackendWorker:
        return BackendWorker(name, self._constructors[name], self._post, self._refusals)


def _ignore(_: TakenEntry) -> None:
    """Drop an acknowledgement that is made before :meth:`ScriptBackends.start`."""
