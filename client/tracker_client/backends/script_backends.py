"""Feeds a script's own classes with what the daemon records of their run, each on a thread of its own.

The daemon sends outbox entries, in parts, and keeps a cursor for each class; an entry is acknowledged once
the class has taken it. After a reconnection the daemon sends again what was not acknowledged: what
the class has already is acknowledged and not given to it again, and what waits for it already is left out.
So a class has each record once, as long as this process lives.
"""

from __future__ import annotations

import json
import sys
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from tracker_client.backends.base import TrackerBackend
from tracker_client.values.refusals import Refusals
from tracker_protocol import limits

Construct = Callable[[], TrackerBackend]


@dataclass(frozen=True)
class DeliveredRows:
    """n records with the same c columns, from the entry's row ``first_row`` on, as the protocol has them."""

    first_row: int
    columns: tuple[str, ...]
    steps: bytes
    values: bytes
    valid: bytes
    texts: tuple[tuple[int, str, str], ...]

    def __len__(self) -> int:
        return len(self.steps) // 8

    def rows(self, skip: int = 0) -> Iterator[tuple[int, dict[str, float | str]]]:
        """Each record's step and values by name, without the first ``skip`` of them."""
        steps, values, width = _numbers("q", self.steps), _numbers("d", self.values), len(self.columns)
        texts: dict[int, dict[str, str]] = {}
        for row, column, value in self.texts:
            texts.setdefault(row, {})[column] = value
        for row in range(skip, len(self)):
            cells: dict[str, float | str] = dict(
                zip(self.columns, values[row * width : (row + 1) * width], strict=True)
            )
            if self.valid:
                there = self.valid[row * width : (row + 1) * width]
                cells = {name: cells[name] for name, valid in zip(self.columns, there, strict=True) if valid}
            yield steps[row], {**cells, **texts.get(row, {})}


@dataclass(frozen=True)
class DeliveredConfig:
    """A JSON object to merge into the run's configuration."""

    document: str


@dataclass(frozen=True)
class DeliveredEnd:
    """The class gets nothing more; ``exit_code`` is 0 unless the run has failed."""

    exit_code: int = 0


@dataclass(frozen=True)
class DeliveredEntry:
    """A part of an outbox entry for one class; ``more`` parts of it follow."""

    backend: str
    epoch: int
    entry: int
    more: bool
    content: DeliveredRows | DeliveredConfig | DeliveredEnd | None

    @property
    def through_row(self) -> int:
        """How many rows of the entry are there with this part; other contents count as one."""
        content = self.content
        return content.first_row + len(content) if isinstance(content, DeliveredRows) else 1


@dataclass(frozen=True)
class TakenEntry:
    """What the daemon is told; ``entry`` 0: only that the class is closed."""

    backend: str
    epoch: int = 0
    entry: int = 0
    refused_records: int = 0
    problem: str = ""
    closed: bool = False


@dataclass(frozen=True)
class DirectCall:
    """A call of the tracker that goes straight to the class: what it is given is no metric."""

    method: str
    arguments: tuple[Any, ...]
    named: Mapping[str, Any] = field(default_factory=dict)


Post = Callable[[TakenEntry], None]


class BackendWorker:
    """One class and its thread. All but the thread itself is called on the sender's."""

    def __init__(self, name: str, construct: Construct, post: Post, refusals: Refusals) -> None:
        self.name = name
        self.backend: TrackerBackend | None = None
        self.built = threading.Event()
        """The class is constructed, or could not be."""
        self.closed = threading.Event()
        self._construct = construct
        self._post = post
        self._refusals = refusals
        self._parts: SimpleQueue[tuple[DeliveredEntry, int] | DirectCall | None] = SimpleQueue()
        self._passed = threading.Semaphore(limits.SCRIPT_CALLS_WAITING_MAX)
        self._offered = (0, 0, 0)
        self._taken = (0, 0)
        self._leaving = False
        self._exit_code = 0
        self.failures = 0
        """Calls of the class that raised."""
        self._refused = 0
        self._problem = ""
        threading.Thread(target=self._main, name=f"tracker-backend-{name}", daemon=True).start()

    # ---- the sender's thread ---------------------------------------------------------------------

    def offer(self, part: DeliveredEntry) -> None:
        """Take a part that is new; acknowledge again what the class has already."""
        at = (part.epoch, part.entry)
        if self.closed.is_set():
            self.say_closed()
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

    def leave(self, exit_code: int = 0) -> None:
        """Let the class finish with what it has, as soon as the call that it is in returns."""
        self._exit_code = exit_code
        self._leaving = True
        self._parts.put(None)

    def say_closed(self) -> None:
        """Tell the daemon that nothing more is taken."""
        self._post(TakenEntry(self.name, problem=self._problem, closed=True))

    # ---- any thread ------------------------------------------------------------------------------

    def pass_on(self, call: DirectCall) -> None:
        """Have the class called as the tracker was, unless too many calls wait for it already."""
        if self.closed.is_set():
            return
        if self._passed.acquire(blocking=False):
            self._parts.put(call)
        else:
            self.failures += 1
            self._refusals.warn_once(
                f"backend {self.name}.{call.method}()",
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
            self._call("finish", self.backend.finish_with, code)
        # The thread's outermost frame: whatever the class's constructor or its methods do (SystemExit, too)
        # must end this class alone.
        except BaseException as error:  # noqa: BLE001
            self._problem = f"it raised {error!r}"
            self._refusals.warn_once(
                f"backend {self.name}", f"{error!r} ended it; it records nothing more, and the others go on"
            )
        finally:
            self.closed.set()
            if last is not None and last.entry:
                self._acknowledge(last)
            self.say_closed()

    def _take_parts(self) -> DeliveredEntry | None:
        """Give the class what comes, until its end; the end."""
        while (item := self._parts.get()) is not None and not self._leaving:
            if isinstance(item, DirectCall):
                self._passed.release()
                self._call(item.method, getattr(self.backend, item.method), *item.arguments, **item.named)
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
            self._call("log_config", backend.log_config, json.loads(content.document))
        elif isinstance(content, DeliveredRows):
            for step, metrics in content.rows(skip):
                if self._leaving:
                    return
                if not self._call("log", backend.log, metrics, step=step):
                    self._refused += 1

    def _call(self, method: str, call: Callable[..., object], *arguments: Any, **named: Any) -> bool:
        """Whether the class's method returned; what it raised is told once."""
        try:
            call(*arguments, **named)
        except Exception as error:  # noqa: BLE001 - the class is the user's code
            self.failures += 1
            self._problem = f"{method}() raised {error!r}"
            self._refusals.warn_once(
                f"backend {self.name}", f"{self._problem}; this is counted, and recording goes on"
            )
            return False
        return True

    def _acknowledge(self, part: DeliveredEntry) -> None:
        if self._leaving and isinstance(part.content, DeliveredRows):
            return  # it may not have had all of it
        refused, self._refused = self._refused, 0
        self._taken = (part.epoch, part.entry)
        self._post(TakenEntry(self.name, part.epoch, part.entry, refused, self._problem if refused else ""))


class ScriptBackends:
    """The workers of one run in this process. ``constructors`` are those of the classes that it may have."""

    def __init__(self, constructors: Mapping[str, Construct], refusals: Refusals) -> None:
        self._constructors = constructors
        self._refusals = refusals
        self._workers: dict[str, BackendWorker] = {}
        self._post: Post = _ignore

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that this process could have."""
        return tuple(self._constructors)

    def start(self, post: Post, *, at_once: bool) -> None:
        """Answers go to ``post``. ``at_once``: construct the classes now, and not when the daemon says so."""
        self._post = post
        if at_once:
            for name in self._constructors:
                self._worker(name)

    def get(self, name: str, timeout_s: float) -> TrackerBackend | None:
        """The instance that this process has under that name, waiting for its construction."""
        worker = self._workers.get(name)
        if worker is None or not worker.built.wait(timeout_s):
            return None
        return worker.backend

    def pass_on(self, call: DirectCall) -> None:
        """Make the call to each class that is in this process, on its own thread."""
        for worker in tuple(self._workers.values()):
            worker.pass_on(call)

    # ---- the sender's thread ---------------------------------------------------------------------

    def welcomed(self, names: tuple[str, ...]) -> None:
        """The daemon feeds these; what else was constructed here gets nothing."""
        for name in names:
            worker = self._worker(name)
            if worker is not None and worker.closed.is_set():
                worker.say_closed()
        for name, worker in self._workers.items():
            if name not in names and not worker.closed.is_set():
                self._refusals.warn_once(
                    f"backend {name}",
                    "the daemon does not feed it in this process; it feeds the classes of the primary rank, "
                    "where register_backend named them before setup_tracker on every rank",
                )
                worker.leave()

    def offer(self, part: DeliveredEntry) -> None:
        """Something came for one of the classes."""
        worker = self._worker(part.backend)
        if worker is not None:
            worker.offer(part)

    def leave(self, exit_code: int = 0) -> None:
        """Have all classes finish with what they have."""
        for worker in self._workers.values():
            worker.leave(exit_code)

    @property
    def failures(self) -> int:
        """Calls of the classes that raised."""
        return sum(worker.failures for worker in tuple(self._workers.values()))

    @property
    def open_names(self) -> list[str]:
        """Those that have not finished yet."""
        return [name for name, worker in self._workers.items() if not worker.closed.is_set()]

    def _worker(self, name: str) -> BackendWorker | None:
        worker = self._workers.get(name)
        if worker is None and name in self._constructors:
            worker = self._workers[name] = BackendWorker(
                name, self._constructors[name], self._post, self._refusals
            )
        return worker


def _ignore(_: TakenEntry) -> None:
    """Nobody is told yet."""


def _numbers(kind: str, data: bytes) -> array[Any]:
    numbers: array[Any] = array(kind)
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
