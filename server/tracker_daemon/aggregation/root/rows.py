"""Rows: the calls of a rank in their order, whose cells are recorded together.

Only ranks whose rows are homes of cells have a queue: the primary, recorded ranks, and sole reporters. A row
enters with its first value. It leaves the queue when it is emitted; then it may still *follow up*: its cells
that close later make further records.

A row is *whole* when its stream has a later row, has said that it is flushed, or has ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_protocol import limits

NO_AXES: Mapping[str, float] = MappingProxyType({})
Part = tuple[int, int, int, Integers]
"""Cells of a row: the panel, its row, the serial of that row, the columns."""
Number = tuple[float, int]
"""A value and its :class:`Kind`."""


class UnplacedValue(NamedTuple):
    """A rank's own value that has no cell: the row's number, step and time, the value and its kind."""

    rank: int
    number: int
    step: int
    time_ns: int
    value: float
    kind: int


@dataclass(slots=True, eq=False)
class HomeRow:
    """One row of a rank. ``last_ns`` is the time of the tick that brought its last value.

    ``numbers`` and ``texts`` are values from outside the panels, by column. ``axes`` are values of axis
    metrics by name: at first the row's own, from its emission on those that hold for it.
    """

    number: int
    step: int
    time_ns: int
    last_ns: int
    parts: list[Part] = field(default_factory=list)
    numbers: dict[str, Number] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    axes: Mapping[str, float] = field(default_factory=lambda: NO_AXES)


class RowQueue:
    """The rows of one rank that are not emitted, and emitted rows with cells that are still open."""

    def __init__(self) -> None:
        self.waiting: deque[HomeRow] = deque()
        """In the order of their numbers."""
        self.following: list[HomeRow] = []
        """Emitted rows, of which cells are still open."""
        self.axes_from: deque[tuple[int, Mapping[str, float]]] = deque(maxlen=limits.AXIS_CHANGES_KEPT_MAX)
        """The axis values of emitted rows, each with the number of the first row that has them."""
        self._by_number: dict[int, HomeRow] = {}
        self._unsorted = False

    @property
    def axes(self) -> Mapping[str, float]:
        """The axis values of the last emitted row."""
        return self.axes_from[-1][1] if self.axes_from else NO_AXES

    def row(self, number: int, step: int, time_ns: int, now_ns: int) -> HomeRow:
        """Return the unemitted row of this number; a value of it has come. It may be new."""
        row = self._by_number.get(number)
        if row is None:
            row = self._by_number[number] = HomeRow(number, step, time_ns, now_ns)
            if self.waiting and self.waiting[-1].number > number:
                self._unsorted = True
            self.waiting.append(row)
        row.last_ns = now_ns
        return row

    def restore(self, row: HomeRow) -> None:
        """Append a row, as a snapshot has it."""
        self.waiting.append(row)
        self._by_number[row.number] = row

    def sort(self) -> None:
        """Put the rows in the order of their numbers, once a tick's batches are applied."""
        if self._unsorted:
            self.waiting = deque(sorted(self.waiting, key=lambda row: row.number))
            self._unsorted = False

    def take(self, count: int) -> list[HomeRow]:
        """Remove and return the first ``count`` rows, with the axis values that hold for each."""
        taken = [self.waiting.popleft() for _ in range(count)]
        axes = self.axes
        for row in taken:
            del self._by_number[row.number]
            if row.axes and (changed := {**axes, **row.axes}) != axes:
                axes = changed
                self.axes_from.append((row.number, axes))
            row.axes = axes
        return taken

    def axes_at(self, number: int) -> Mapping[str, float]:
        """Return the axis values that hold for the row of this number, emitted or not."""
        axes = dict(self._emitted_axes_at(number))
        for row in sorted(self.waiting, key=lambda row: row.number):
            if row.number <= number:
                axes.update(row.axes)
        return axes

    def _emitted_axes_at(self, number: int) -> Mapping[str, float]:
        for first, axes in reversed(self.axes_from):
            if first <= number:
                return axes
        is_forgotten = len(self.axes_from) == self.axes_from.maxlen
        return self.axes_from[0][1] if is_forgotten else NO_AXES
