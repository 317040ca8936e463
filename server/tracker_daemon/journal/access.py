"""Access to the journal for threads that do not own it: work runs on the journal's thread, transacted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from tracker_daemon.journal.store import Journal

T = TypeVar("T")


class JournalAccess(Protocol):
    """Runs work on the journal's thread; the event loop awaits the commit of its transaction."""

    def __call__(self, work: Callable[[Journal], T], /) -> Awaitable[T]:
        """Run ``work``."""


class BlockingJournalAccess(Protocol):
    """Runs work on the journal's thread; the calling thread waits for the commit of its transaction."""

    def __call__(self, work: Callable[[Journal], T], /) -> T:
        """Run ``work``."""
