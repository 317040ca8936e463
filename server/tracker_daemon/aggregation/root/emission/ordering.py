"""The order of emission: which rows are due, and in which order their records are emitted.

The rows of a rank are emitted in the order in which it logged them. A row waits for earlier ones, and until
it is whole and its cells have closed. A row of the primary whose only open cells are of unlearned metrics is
emitted *early*: EARLY_ROW_S after its last value came, once every expected rank has flushed since. From
JOIN_WAIT_S after the run's first Hello on, every connected rank is enough. It carries its own values; its
cells that close later make further records, one a tick.

Closed cells without a home join a record of their step that is emitted in the same tick. The others make a
record for each (step, occurrence), by step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, islice
from operator import itemgetter

import numpy as np

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.root.attempt import RootAttempt
from tracker_daemon.aggregation.root.emission.blocks import Emission
from tracker_daemon.aggregation.root.emission.gathering import Gather, Gathered, gather, homeless
from tracker_daemon.aggregation.root.rows import HomeRow, RowQueue
from tracker_daemon.aggregation.shared.marks import Key
from tracker_daemon.aggregation.shared.panel import Bits
from tracker_daemon.aggregation.shared.placement import Index, numbers_of
from tracker_protocol import limits

_NS = 1_000_000_000
EARLY_ROW_NS = int(limits.EARLY_ROW_S * _NS)
JOIN_WAIT_NS = int(limits.JOIN_WAIT_S * _NS)
_CHUNK_ROWS = 256
"""The rows that are looked at together at first: usually the first is due, and so are the next."""
_CHUNK_ROWS_MAX = 2_048
NO_NUMBER = -1
_HomelessPart = tuple[int, int, Bits]


def due(attempt: RootAttempt, touched: dict[int, Index], now_ns: int) -> Iterator[Emission]:
    """Yield the rows that are due, in order. Each must be emitted before the next is taken."""
    strays = _Strays(attempt, touched)
    for rank in sorted(attempt.queues, key=lambda rank: (rank != attempt.rules.primary_rank, rank)):
        queue = attempt.queues[rank]
        if touched and queue.following:
            yield from _following(attempt, rank, queue, strays)
        queue.sort()
        yield from _waiting(attempt, rank, queue, strays, now_ns)
    yield from strays.rest()


# ---- cells without a home ------------------------------------------------------------------------


class _Strays:
    """The closed cells of this tick that have no home, until they join a record or make one."""

    def __init__(self, attempt: RootAttempt, touched: dict[int, Index]) -> None:
        self._attempt = attempt
        self._by_step: defaultdict[int, dict[Key, list[_HomelessPart]]] = defaultdict(dict)
        for index, rows in sorted(touched.items()):
            panel = attempt.panels[index]
            cells = homeless(panel, rows)
            if cells.any():
                self._add(index, numbers_of(rows), cells)

    def _add(self, index: int, rows: Integers, cells: Bits) -> None:
        for i in np.flatnonzero(cells.any(axis=1)).tolist():
            [key] = self._attempt.panels[index].keys_at(rows[i : i + 1])
            self._by_step[key[0]].setdefault(key, []).append((index, int(rows[i]), cells[i]))

    def joining(self, rows: list[HomeRow], gathers: tuple[Gather, ...]) -> tuple[Gather, ...]:
        """Return ``gathers`` with the cells that join these rows; such cells are no strays any more."""
        if not self._by_step:
            return gathers
        more: list[Gather] = []
        taken = _TakenCells(gathers)
        for position, row in enumerate(rows):
            for key, parts in sorted(self._by_step.get(row.step, {}).items(), key=itemgetter(0)):
                if taken.take(position, parts):
                    more.extend(_gather_of(position, part) for part in parts)
                    del self._by_step[row.step][key]
        return (*gathers, *more)

    def rest(self) -> Iterator[Emission]:
        """Yield the cells that joined no record, by step and occurrence."""
        left = sorted(
            chain.from_iterable(by_key.items() for by_key in self._by_step.values()), key=itemgetter(0)
        )
        if not left:
            return
        rows: list[HomeRow] = []
        gathers: list[Gather] = []
        primary = self._attempt.queues.get(self._attempt.rules.primary_rank)
        for position, (key, parts) in enumerate(left):
            time_ns = max(int(self._attempt.panels[index].time_ns[row]) for index, row, _ in parts)
            row = HomeRow(NO_NUMBER, key[0], time_ns, time_ns)
            if primary is not None:
                row.axes = primary.axes
            rows.append(row)
            gathers.extend(_gather_of(position, part) for part in parts)
        yield Emission(rows, tuple(gathers), np.zeros(len(rows), np.bool_))


class _TakenCells:
    """The metrics of which each row of an emission has a cell, as the bits of an integer for each panel."""

    def __init__(self, gathers: tuple[Gather, ...]) -> None:
        self._taken: defaultdict[tuple[int, int], int] = defaultdict(int)
        for one in gathers:
            for position, cells in zip(one.positions.tolist(), one.closed | one.opened, strict=True):
                self._taken[position, one.panel] |= _as_integer(cells)

    def take(self, position: int, parts: list[_HomelessPart]) -> bool:
        """Add ``parts`` to the row at ``position``; return False if it has a cell of their metrics."""
        numbers = [((position, index), _as_integer(cells)) for index, _, cells in parts]
        if any(self._taken[place] & number for place, number in numbers):
            return False
        for place, number in numbers:
            self._taken[place] |= number
        return True


def _as_integer(cells: Bits) -> int:
    return int.from_bytes(cells.tobytes(), "little")


def _gather_of(position: int, part: _HomelessPart) -> Gather:
    index, row, cells = part
    at = np.array([position], np.int64)
    return Gather(index, at, slice(row, row + 1), cells[None], np.zeros((1, len(cells)), np.bool_))


# ---- rows of ranks -------------------------------------------------------------------------------


def _following(attempt: RootAttempt, rank: int, queue: RowQueue, strays: _Strays) -> Iterator[Emission]:
    """Yield further records of rows that were emitted early, for cells that have closed since."""
    rows, queue.following = queue.following, []
    gathered = gather(attempt, rank, rows)
    for row, opened in zip(rows, gathered.opened.tolist(), strict=True):
        row.numbers, row.texts = {}, {}
        if opened:
            queue.following.append(row)
    if not gathered.closed.any():
        return
    place = np.cumsum(gathered.closed) - 1
    further = [row for row, closed in zip(rows, gathered.closed.tolist(), strict=True) if closed]
    gathers = tuple(
        one.moved(place[one.positions])
        for one in (one.at(gathered.closed[one.positions]) for one in gathered.gathers)
    )
    yield Emission(further, strays.joining(further, gathers), np.zeros(len(further), np.bool_))


def _waiting(
    attempt: RootAttempt, rank: int, queue: RowQueue, strays: _Strays, now_ns: int
) -> Iterator[Emission]:
    """Yield the first rows of a queue, as far as they are due."""
    size = _CHUNK_ROWS
    while queue.waiting:
        rows = list(islice(queue.waiting, size))
        gathered = gather(attempt, rank, rows)
        is_due = _due(attempt, rank, rows, gathered, now_ns)
        count = len(rows) if is_due.all() else int(is_due.argmin())
        if not count:
            return
        taken = queue.take(count)
        early = gathered.opened[:count]
        queue.following.extend(row for row, opened in zip(taken, early.tolist(), strict=True) if opened)
        gathers = tuple(one.between(0, count) for one in gathered.gathers)
        yield Emission(taken, strays.joining(taken, gathers), early)
        if count < len(rows):
            return
        size = _CHUNK_ROWS_MAX


def _due(attempt: RootAttempt, rank: int, rows: list[HomeRow], gathered: Gathered, now_ns: int) -> Bits:
    members = attempt.membership
    is_over = attempt.fenced or rank in members.gone or members.over()
    is_due: Bits = np.ones(len(rows), np.bool_)
    if not is_over and not attempt.progress.is_whole(rank, rows[-1].number):  # no earlier row is whole later
        is_due[:] = [attempt.progress.is_whole(rank, row.number) for row in rows]
    if gathered.opened.any():
        is_due &= ~gathered.opened | (~gathered.awaited & _early(attempt, rank, rows, now_ns))
    return is_due


def _early(attempt: RootAttempt, rank: int, rows: list[HomeRow], now_ns: int) -> Bits:
    """Return which rows may be emitted before their cells of unlearned metrics have closed."""
    if rank != attempt.rules.primary_rank:
        return np.zeros(len(rows), np.bool_)
    members = attempt.membership
    joined = attempt.first_hello_ns is not None and now_ns >= attempt.first_hello_ns + JOIN_WAIT_NS
    flushed_ns = attempt.progress.oldest_flush_ns(members.connected() if joined else members.awaited())
    last_ns = np.array([row.last_ns for row in rows], np.int64)
    return (last_ns + EARLY_ROW_NS <= now_ns) & (last_ns <= flushed_ns)


# ---- time ----------------------------------------------------------------------------------------


def waits_for_flush(attempt: RootAttempt) -> bool:
    """Return True if a row waits for its stream to say that it is flushed."""
    return any(
        queue.waiting and not attempt.progress.is_whole(rank, queue.waiting[0].number)
        for rank, queue in attempt.queues.items()
        if rank not in attempt.membership.gone
    )


def next_early_ns(attempt: RootAttempt) -> int | None:
    """Return the time from which the primary's first row may be emitted early; None without such a row."""
    queue = attempt.queues.get(attempt.rules.primary_rank)
    if queue is None or not queue.waiting:
        return None
    times = [queue.waiting[0].last_ns + EARLY_ROW_NS]
    if attempt.first_hello_ns is not None:
        times.append(attempt.first_hello_ns + JOIN_WAIT_NS)
    return min((time_ns for time_ns in times if time_ns > attempt.settled_ns), default=None)
