"""A backend that is a class of the training script, fed in the primary rank's process.

The pump's thread hands entries to a :class:`ScriptLink` and waits until the script's process says that
the class has taken them; the event loop attaches the link to that process's connection, and passes on
what it answers. While there is no connection the entries wait, as for any backend that cannot be reached.

That process knows which entries it has taken and acknowledges one that comes again without giving it to
the class, so the class has each once, over reconnections and restarts of the daemon; what a process
had taken and not acknowledged when it died, the class in its successor gets again. A link that is closed
has nobody left to take anything: what comes then is set aside.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from tracker_daemon.aggregation.shared.record import RecordBlock
from tracker_daemon.backends.base import Backend, Commit, RunDescription, SetAside
from tracker_daemon.errors import BackendUnavailable
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_protocol import limits

SCRIPT_STATE = b"script"
"""The state of every such backend, by which a restarted daemon knows that it is a class of the script."""

SendEntry = Callable[[int, OutboxEntry], None]
"""Sends an entry of an epoch, on the pump's thread; does nothing once the connection is gone."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ScriptAnswer:
    """What the script's process says of an entry. ``closed``: the class takes nothing any more."""

    epoch: int
    entry: int
    refused_records: int = 0
    problem: str = ""
    closed: bool = False


class ScriptLink:
    """Between a pump and the process that has the class. Called from both sides' threads."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self._changed = threading.Condition()
        self._send: SendEntry | None = None
        self._where = ""
        self._closed = ""
        self._taken = (0, 0)
        self._answers = 0
        self._refused: list[SetAside] = []

    # ---- the event loop ----

    def attach(self, where: str, send: SendEntry) -> None:
        """The process ``where`` (for people) is connected, and takes what ``send`` is given."""
        with self._changed:
            self._send, self._where, self._closed = send, where, ""
            self._changed.notify_all()

    def detach(self, send: SendEntry) -> None:
        """That connection is gone; another may have taken its place already."""
        with self._changed:
            if self._send is send:
                self._send = None
                self._changed.notify_all()

    def close(self, reason: str) -> None:
        """Nobody will take anything any more, unless a process attaches again."""
        with self._changed:
            self._send, self._closed = None, reason
            self._changed.notify_all()

    def answer(self, taken: ScriptAnswer) -> None:
        """The process has answered."""
        with self._changed:
            self._answers += 1
            if (taken.epoch, taken.entry) > self._taken:
                self._taken = (taken.epoch, taken.entry)
                if taken.refused_records:
                    self._refused.append(SetAside(taken.entry, taken.refused_records, taken.problem))
            self._changed.notify_all()

    @property
    def attached(self) -> bool:
        """Whether the process is connected."""
        with self._changed:
            return self._send is not None

    @property
    def is_closed(self) -> bool:
        """Whether nobody takes anything any more."""
        with self._changed:
            return bool(self._closed)

    # ---- the pump's thread ----

    @property
    def where(self) -> str:
        """The process that has the class, for people; "" before there was one."""
        with self._changed:
            return self._where

    def exchange(self, epoch: int, entries: Sequence[OutboxEntry]) -> list[SetAside]:
        """Send ``entries``, and return once the last of them is taken or nobody is left to take it.

        Returns what is set aside: what the class raised for, or all that a closed link leaves.

        Raises:
            BackendUnavailable: no process is connected, or it has not answered for a while.
        """
        try:
            send = self._connection()
            for entry in entries:
                if (epoch, entry.number) > self._taken:
                    send(epoch, entry)
            self._await_taken((epoch, entries[-1].number), send)
        except _LinkClosed as closed:
            return [*self._take_refused(), *self._left_over(epoch, entries, str(closed))]
        return self._take_refused()

    def _take_refused(self) -> list[SetAside]:
        with self._changed:
            refused, self._refused = self._refused, []
            return refused

    def _left_over(self, epoch: int, entries: Sequence[OutboxEntry], reason: str) -> list[SetAside]:
        left = [
            entry
            for entry in entries
            if entry.kind is EntryKind.RECORDS and (epoch, entry.number) > self._taken
        ]
        if not left:
            return []
        return [
            SetAside(left[-1].number, sum(len(RecordBlock.from_bytes(one.payload)) for one in left), reason)
        ]

    def _connection(self) -> SendEntry:
        with self._changed:
            self._changed.wait_for(lambda: self._send or self._closed, limits.SCRIPT_CONNECT_PATIENCE_S)
            self._check_open()
            if self._send is None:
                raise self._absent()
            return self._send

    def _await_taken(self, wanted: tuple[int, int], send: SendEntry) -> None:
        with self._changed:
            while self._taken < wanted:
                self._check_open()
                if self._send is not send:
                    raise self._absent()
                answers = self._answers
                deadline = time.monotonic() + limits.SCRIPT_ANSWER_PATIENCE_S
                self._changed.wait_for(
                    lambda: self._answers != answers or self._send is not send,  # noqa: B023 - waited for here
                    max(0.0, deadline - time.monotonic()),
                )
                if self._answers == answers and self._send is send:
                    raise BackendUnavailable(
                        f"the class {self.backend!r} in {self._where} has taken nothing for "
                        f"{limits.SCRIPT_ANSWER_PATIENCE_S:.0f} s; its records wait until it does"
                    )

    def _check_open(self) -> None:
        if self._closed:
            raise _LinkClosed(f"the class {self.backend!r} takes nothing any more: {self._closed}")

    def _absent(self) -> BackendUnavailable:
        process = self._where or "the primary rank"
        return BackendUnavailable(
            f"{process}, whose script has the class {self.backend!r}, is not connected; its records wait"
        )


class _LinkClosed(Exception):
    """Nobody is left to take anything."""


class ScriptLinks:
    """The links of all runs. On the event loop."""

    def __init__(self) -> None:
        self._links: dict[tuple[str, str], ScriptLink] = {}

    def of(self, run_id: str, backend: str) -> ScriptLink:
        """The link of one run and backend, made when it is first asked for."""
        return self._links.setdefault((run_id, backend), ScriptLink(backend))

    def forget(self, run_id: str) -> None:
        """The run is of no interest any more."""
        for key in [key for key in self._links if key[0] == run_id]:
            del self._links[key]


class ScriptBackend(Backend):
    """Gives a run's entries to a link."""

    def __init__(self, link: ScriptLink) -> None:
        self.name = link.backend  # type: ignore[misc]  # each is another backend
        self._link = link
        self._epoch = 0
        self._set_aside: list[SetAside] = []

    def open(self, run: RunDescription, state: bytes | None) -> None:  # noqa: ARG002  # the interface's
        """Note the run's epoch; the process may come later."""
        self._epoch = run.epoch

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:  # noqa: ARG002  # the interface's
        """Have the script's process take ``entries``; see :class:`Backend`."""
        self._set_aside = self._link.exchange(self._epoch, entries)
        return SCRIPT_STATE

    def close(self) -> None:
        """Do nothing: the process keeps its class."""

    def location(self) -> str | None:
        """The process that has the class."""
        return self._link.where or None

    def set_aside(self) -> Sequence[SetAside]:
        """What the class raised for, or nobody was left to take."""
        return self._set_aside

    @property
    def reachable(self) -> bool:
        """Whether the process is connected, or will never be."""
        return self._link.attached or self._link.is_closed
