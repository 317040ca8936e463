"""The link between a run's delivery and the script's process that has a class of the script.

The pump's thread gives entries to a :class:`ScriptLink` and waits until the process has processed them. The
event loop attaches the link to the process's connection, and gives the process's answers to the link. A
closed link has no process left: its entries are set aside.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.base import SetAside
from tracker_daemon.errors import BackendUnavailable
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_protocol import limits

SendEntry = Callable[[int, OutboxEntry], None]
"""Sends an entry of an epoch, on the pump's thread; does nothing once the connection is gone."""


@dataclass(frozen=True, slots=True)
class ScriptAnswer:
    """The answer of the script's process to an entry: the class has processed it."""

    epoch: int
    entry: int
    refused_records: int = 0
    """The number of the entry's records for which the class raised."""
    problem: str = ""
    """The error that the class raised last."""


class ScriptLink:
    """The link of one run and one class. The pump's thread and the event loop call its methods."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self._changed = threading.Condition()
        self._send: SendEntry | None = None
        self._where = ""
        self._closed = ""
        self._live_after = 0
        self._processed = (0, 0)
        self._answers = 0
        self._refused: list[SetAside] = []

    # ---- for the event loop ----

    def attach(self, where: str, send: SendEntry, live_after: int | None = None) -> None:
        """Send entries by ``send`` from now on: the process ``where`` (for people) is connected.

        The process still logs after the entry ``live_after``; None: it has finished, and may have before. An
        END up to that entry is not its own: the run has ended without it, and the process's class goes on.
        """
        with self._changed:
            self._send, self._where, self._closed = send, where, ""
            if live_after is not None:
                self._live_after = live_after
            self._changed.notify_all()

    def detach(self, send: SendEntry) -> None:
        """Send no more entries by ``send``; another connection may have replaced it already."""
        with self._changed:
            if self._send is send:
                self._send = None
                self._changed.notify_all()

    def close(self, reason: str) -> None:
        """Set entries aside from now on, unless a process attaches again."""
        with self._changed:
            self._send, self._closed = None, reason
            self._changed.notify_all()

    def answer(self, answer: ScriptAnswer) -> None:
        """Note an answer of the process."""
        with self._changed:
            self._answers += 1
            if (answer.epoch, answer.entry) > self._processed:
                self._processed = (answer.epoch, answer.entry)
                if answer.refused_records:
                    self._refused.append(SetAside(answer.entry, answer.refused_records, answer.problem))
            self._changed.notify_all()

    @property
    def attached(self) -> bool:
        """True if the process is connected."""
        with self._changed:
            return self._send is not None

    @property
    def is_closed(self) -> bool:
        """True if no process is left to receive entries."""
        with self._changed:
            return bool(self._closed)

    # ---- for the pump's thread ----

    @property
    def where(self) -> str:
        """The process that has the class, for people; "" before the first connection."""
        with self._changed:
            return self._where

    def exchange(self, epoch: int, entries: Sequence[OutboxEntry]) -> list[SetAside]:
        """Send ``entries``; return once the process has processed the last one, or once the link is closed.

        Returns the records to set aside: those for which the class raised, and those that a closed link
        leaves.

        Raises:
            BackendUnavailable: no process is connected, or the process has not answered for a while.
        """
        try:
            send = self._connection()
            for entry in entries:
                if self._is_earlier_end(entry):
                    self.answer(ScriptAnswer(epoch, entry.number))
                elif (epoch, entry.number) > self._processed:
                    send(epoch, entry)
            self._await_processed((epoch, entries[-1].number), send)
        except _LinkClosed as closed:
            return [*self._pop_refused(), *self._left_over(epoch, entries, str(closed))]
        return self._pop_refused()

    def _is_earlier_end(self, entry: OutboxEntry) -> bool:
        return entry.kind is EntryKind.END and entry.number <= self._live_after

    def _pop_refused(self) -> list[SetAside]:
        with self._changed:
            refused, self._refused = self._refused, []
            return refused

    def _left_over(self, epoch: int, entries: Sequence[OutboxEntry], reason: str) -> list[SetAside]:
        left = [
            entry
            for entry in entries
            if entry.kind is EntryKind.RECORDS and (epoch, entry.number) > self._processed
        ]
        if not left:
            return []
        records = sum(len(RecordBlock.from_bytes(one.payload)) for one in left)
        return [SetAside(left[-1].number, records, reason)]

    def _connection(self) -> SendEntry:
        with self._changed:
            self._changed.wait_for(lambda: self._send or self._closed, limits.SCRIPT_CONNECT_PATIENCE_S)
            self._check_open()
            if self._send is None:
                raise self._not_connected()
            return self._send

    def _await_processed(self, wanted: tuple[int, int], send: SendEntry) -> None:
        with self._changed:
            while self._processed < wanted:
                self._check_open()
                if self._send is not send:
                    raise self._not_connected()
                answers = self._answers
                deadline = time.monotonic() + limits.SCRIPT_ANSWER_PATIENCE_S
                self._changed.wait_for(
                    lambda: self._answers != answers or self._send is not send,  # noqa: B023 - waited for here
                    max(0.0, deadline - time.monotonic()),
                )
                if self._answers == answers and self._send is send:
                    raise BackendUnavailable(
                        f"the class {self.backend!r} in {self._where} has processed nothing for "
                        f"{limits.SCRIPT_ANSWER_PATIENCE_S:.0f} s; its records wait until it does"
                    )

    def _check_open(self) -> None:
        if self._closed:
            raise _LinkClosed(f"the class {self.backend!r} accepts no entries any more: {self._closed}")

    def _not_connected(self) -> BackendUnavailable:
        process = self._where or "the primary rank"
        return BackendUnavailable(
            f"{process}, whose script has the class {self.backend!r}, is not connected; its records wait"
        )


class _LinkClosed(Exception):
    """No process is left to receive entries."""


class ScriptLinks:
    """The links of all runs. Used on the event loop."""

    def __init__(self) -> None:
        self._links: dict[tuple[str, str], ScriptLink] = {}

    def of(self, run_id: str, backend: str) -> ScriptLink:
        """Return the link of one run and backend; the first call creates it."""
        return self._links.setdefault((run_id, backend), ScriptLink(backend))

    def forget(self, run_id: str) -> None:
        """Drop the links of a run that is complete."""
        for key in [key for key in self._links if key[0] == run_id]:
            del self._links[key]
