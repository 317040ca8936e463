"""A class of the training script as a backend: the primary rank's process has the class and calls it.

The daemon sends entries to that process over a :class:`ScriptLink`. While the process is not connected the
entries wait, as for any backend that cannot be reached.

The process remembers the entries that it has processed. It acknowledges an entry that it receives again,
without giving the entry to the class. So the class receives each entry once, over reconnections and
restarts of the daemon. Entries that a process had processed and not acknowledged when it died are given to
the class again, in the process's successor.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracker_daemon.backends.base import Backend, Commit, RunDescription, SetAside
from tracker_daemon.backends.third_party.script_link import ScriptLink
from tracker_daemon.outbox.entries import OutboxEntry

SCRIPT_STATE = b"script"
"""The state of every such backend, by which a restarted daemon recognises a class of the script."""


class ScriptBackend(Backend):
    """Sends a run's entries over a link."""

    def __init__(self, link: ScriptLink) -> None:
        self.name = link.backend  # type: ignore[misc]  # the script chooses the name
        self._link = link
        self._epoch = 0
        self._set_aside: list[SetAside] = []

    def open(self, run: RunDescription, state: bytes | None) -> None:  # noqa: ARG002  # the interface's
        """Note the run's epoch; the process may connect later."""
        self._epoch = run.epoch

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:  # noqa: ARG002  # the interface's
        """Return once the script's process has processed ``entries``; see :class:`Backend`."""
        self._set_aside = self._link.exchange(self._epoch, entries)
        return SCRIPT_STATE

    def close(self) -> None:
        """Do nothing: the process keeps its class."""

    def location(self) -> str | None:
        """Return the process that has the class."""
        return self._link.where or None

    def set_aside(self) -> Sequence[SetAside]:
        """Return the records for which the class raised, or for which no process is left."""
        return self._set_aside

    @property
    def reachable(self) -> bool:
        """True if the process is connected, or if no process will ever connect."""
        return self._link.attached or self._link.is_closed
