"""A queue without locks: many threads append, one takes, and any may drop the oldest entries.

A signal handler may interrupt any of these operations and log, or wait for the taking thread in ``finish()``.
So no operation may depend on the end of another one. Two facts of CPython allow that. One call of a C
function is never interrupted by another thread or a signal handler, as long as it runs no Python code. And a
collection of garbage, which would run Python code, begins only where an object is created.

* Entries arrive in ``entries``. Both kinds of removal move them, from the left, to the end of one further
  deque, each in one call that creates no object. So that deque has the order of the entries.
* Dropped entries are moved as one *group*. The group is then replaced by its summary: the summary joins the
  group first, and only then do the entries leave. Whoever needs the summary earlier computes it from the
  entries, with the same result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, islice
from typing import Generic, TypeVar

Entry = TypeVar("Entry")
Summary = TypeVar("Summary")
_NEVER = object()


class Dropped(Generic[Summary]):
    """Entries that were dropped at this place of the queue."""

    __slots__ = ("summary",)

    def __init__(self, summary: Summary) -> None:
        self.summary = summary


class LossyQueue(Generic[Entry, Summary]):
    """The queue. Any thread appends to ``entries``; ``summarise`` must be pure."""

    def __init__(self, summarise: Callable[[tuple[Entry, ...]], Summary]) -> None:
        self.entries: deque[Entry] = deque()
        self._summarise = summarise
        self._moved: deque[Entry | _Group[Entry, Summary] | None] = deque()

    def drop(self, count: int) -> tuple[Entry, ...]:
        """Drop the oldest entries, ``count`` at most; return them."""
        group: _Group[Entry, Summary] = _Group()
        oldest = islice(iter(self.entries.popleft, _NEVER), count)
        # The group joins the deque, and is filled, in one call. The result None of its extend() joins too.
        joining = chain((group,), map(group.members.extend, (oldest,)))
        with suppress(IndexError):  # there may be fewer
            self._moved.extend(joining)
        dropped = group.entries()
        group.replace(self._summarise)
        return dropped

    def take(self, most: int) -> list[Entry | Dropped[Summary]]:
        """Take the oldest entries, ``most`` at most, among the summaries of dropped ones. For one thread."""
        oldest = islice(iter(self.entries.popleft, _NEVER), most)
        with suppress(IndexError):  # there may be fewer
            self._moved.extend(oldest)
        taken: list[Entry | Dropped[Summary]] = []
        while self._moved:
            moved = self._moved.popleft()
            if isinstance(moved, _Group):
                taken.append(moved.summary(self._summarise))
            elif moved is not None:
                taken.append(moved)
        return taken

    def summaries(self) -> list[Summary]:
        """Return the summaries of dropped entries that are not taken yet."""
        groups = [moved for moved in self._moved.copy() if isinstance(moved, _Group)]
        return [group.summary(self._summarise).summary for group in groups]


class _Group(Generic[Entry, Summary]):
    """Dropped entries. Once ``members`` begins with their summary, it is all that counts."""

    __slots__ = ("members",)

    def __init__(self) -> None:
        self.members: deque[Entry | Dropped[Summary]] = deque()

    def entries(self) -> tuple[Entry, ...]:
        """Return the entries; only for the thread that dropped them."""
        return tuple(member for member in self.members.copy() if not isinstance(member, Dropped))

    def summary(self, summarise: Callable[[tuple[Entry, ...]], Summary]) -> Dropped[Summary]:
        """Return the summary, and let it join the group."""
        members = tuple(self.members)
        if members and isinstance(members[0], Dropped):
            return members[0]
        dropped = Dropped(summarise(members))  # type: ignore[arg-type]  # no summary is among them
        self.members.appendleft(dropped)
        return dropped

    def replace(self, summarise: Callable[[tuple[Entry, ...]], Summary]) -> None:
        """Put the summary in the place of the entries; only for the thread that dropped them."""
        self.summary(summarise)
        while len(self.members) > 1:  # a second summary of another thread is equal to the first
            self.members.pop()
