"""Counts that any thread may add to, a signal handler included.

``n += 1`` may lose an addition of another thread, and a lock would block a signal handler that interrupts
its holder. So additions are appended to a deque, which is one operation. Whoever has the lock adds them up;
nobody waits for the lock.
"""

from __future__ import annotations

import threading
from collections import deque

_ADD_UP_FROM = 64


class Tally:
    """A sum of additions, negative ones included."""

    __slots__ = ("_added", "_lock", "_total")

    def __init__(self) -> None:
        self._added: deque[int] = deque()
        self._lock = threading.Lock()
        self._total = 0

    def add(self, number: int = 1) -> None:
        """Add ``number``."""
        self._added.append(number)
        if len(self._added) >= _ADD_UP_FROM:
            self._add_up()

    @property
    def value(self) -> int:
        """The sum. It misses at most one addition, and only while another thread adds up."""
        self._add_up()
        return self._total + sum(self._added.copy())

    def _add_up(self) -> None:
        if not self._lock.acquire(blocking=False):
            return
        try:
            while self._added:
                self._total += self._added.popleft()
        finally:
            self._lock.release()


class Room:
    """A bound of ``most`` on what is held at a time; reservations and releases count."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = Tally()

    @property
    def held(self) -> int:
        """The sum of what is reserved now."""
        return self._held.value

    def reserve(self, size: int = 1) -> bool:
        """Reserve ``size``; return False, and reserve nothing, if that is more than is left."""
        self._held.add(size)
        if self._held.value <= self._most:
            return True
        self._held.add(-size)
        return False

    def release(self, size: int = 1) -> None:
        """Release what was reserved."""
        self._held.add(-size)
