"""What a node's ranks have reported and nobody has been told yet: dense by row, rank and metric.

As in an attempt of the recording fold, metrics that were first logged together form a panel, a rank has a
slot in it, and a row is a (step, occurrence); so a block of a rank is written by one numpy assignment. But
nothing closes here: a row is gathered until it is taken, and a rank that comes later opens it anew. Since
occurrences are counted, no rank has the same cell twice.

Time is counted in *windows*, which are what lies between two cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.node.progress import RankProgress
from tracker_daemon.aggregation.numbers.summary import Floats, Integers
from tracker_daemon.aggregation.shared.batch import Rows
from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.shared.marks import Key
from tracker_daemon.aggregation.shared.occurrence import OccurrenceCounter
from tracker_daemon.aggregation.shared.placement import PlanPart, plan_parts
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_protocol import limits

UNDECIDED, NOBODY = -2, -1
Bits = NDArray[np.bool_]
_ROWS_AT_FIRST = 8
_IDLE_BYTES_MAX = 32 * 1024 * 1024
"""Room that an empty panel keeps, so that steady bursts do not allocate it each time."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Where the columns of a block go; of those that go nowhere, ``refused``, ``names`` has none."""

    names: tuple[str, ...]
    parts: tuple[PlanPart, ...]
    refused: int


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """n rows that have left a panel of m metrics; ``ranks``, r of them, ascend.

    ``values`` and ``seen`` are (n, r, m). ``dense``, (r, m), says whose values are told as they are.
    """

    names: tuple[str, ...]
    ranks: Integers
    dense: Bits
    steps: Integers
    occurrences: Integers
    times_ns: Integers
    values: Floats
    seen: Bits


class NodePanel:
    """The rows of ``names``, for one attempt."""

    def __init__(self, names: tuple[str, ...]) -> None:
        width = len(names)
        self.names = names
        self.ranks: list[int] = []
        self.slot_of: dict[int, int] = {}
        self.occurrences = OccurrenceCounter(0, width)
        self.ever: Bits = np.zeros((0, width), np.bool_)
        """Which metrics each slot has reported at some time."""
        self.sole: Integers = np.full(width, UNDECIDED, np.int64)
        """By metric the rank that alone had reported it when it was first taken."""
        self.row_of: dict[Key, int] = {}
        self.points = 0
        self.allocate(_ROWS_AT_FIRST)

    # ---- storage ---------------------------------------------------------------------------------

    _ROW_ARRAYS = ("values", "seen", "step", "occurrence", "time_ns", "window")

    def allocate(self, capacity: int) -> None:
        """Make room for ``capacity`` rows, all of them free."""
        slots, width = self.ever.shape
        self.values: Floats = np.zeros((capacity, slots, width))
        self.seen: Bits = np.zeros((capacity, slots, width), np.bool_)
        self.step: Integers = np.zeros(capacity, np.int64)
        self.occurrence: Integers = np.zeros(capacity, np.int64)
        self.time_ns: Integers = np.zeros(capacity, np.int64)
        self.window: Integers = np.zeros(capacity, np.int64)
        self.free = list(range(capacity - 1, -1, -1))

    def _grow_rows(self) -> None:
        old = {name: getattr(self, name) for name in self._ROW_ARRAYS}
        capacity = len(self.step)
        self.allocate(2 * capacity)
        for name, array in old.items():
            getattr(self, name)[:capacity] = array
        self.free = list(range(2 * capacity - 1, capacity - 1, -1))

    def slot(self, rank: int) -> int:
        """The rank's slot, made if it has none."""
        slot = self.slot_of.get(rank)
        if slot is None:
            slot = self.slot_of[rank] = len(self.ranks)
            self.ranks.append(rank)
            if slot >= len(self.ever):
                self._grow_slots(max(4, 2 * slot))
        return slot

    def _grow_slots(self, slots: int) -> None:
        had, width = self.ever.shape
        ever = np.zeros((slots, width), np.bool_)
        ever[:had] = self.ever
        self.ever = ever
        self.occurrences.grow(slots)
        for name in ("values", "seen"):
            old = getattr(self, name)
            grown = np.zeros((len(old), slots, width), old.dtype)
            grown[:, :had] = old
            setattr(self, name, grown)

    def live_rows(self) -> Integers:
        """All rows in use, in the order in which they were opened."""
        return np.fromiter(self.row_of.values(), np.int64, len(self.row_of))

    def live_bytes(self) -> int:
        """Memory that the rows in use hold."""
        return len(self.row_of) * (self.values.nbytes + self.seen.nbytes) // max(1, len(self.step))

    # ---- what comes ------------------------------------------------------------------------------

    def rows_at(self, steps: Integers, occurrence: int, times_ns: Integers, window: int) -> Integers:
        """The rows of these steps; those that are not there are opened, with these times."""
        found = []
        for i, step in enumerate(steps.tolist()):
            key = (step, occurrence)
            row = self.row_of.get(key)
            if row is None:
                row = self.open_row(key, int(times_ns[i]), window)
            found.append(row)
        return np.array(found, np.int64)

    def open_row(self, key: Key, time_ns: int, window: int) -> int:
        """Begin a row."""
        if not self.free:
            self._grow_rows()
        row = self.row_of[key] = self.free.pop()
        self.step[row], self.occurrence[row] = key
        self.time_ns[row], self.window[row] = time_ns, window
        return row

    def write(self, slot: int, rows: Integers, columns: Integers, values: Floats) -> None:
        """Take in a rank's ``values`` (rows × columns); each of these cells is new to this rank."""
        self.values[rows[:, None], slot, columns] = values
        self.seen[rows[:, None], slot, columns] = True
        self.ever[slot, columns] = True
        self.points += values.size

    # ---- what leaves -----------------------------------------------------------------------------

    def due_rows(self, window: int, live: set[int]) -> Integers:
        """The rows that were there at the cut before, and those that are complete.

        A row is complete when no ``live`` rank owes a metric of it, which it reports at other times.
        """
        rows = self.live_rows()
        due = self.window[rows] < window
        young = ~due
        due[young] = self._complete(rows[young], live)
        return rows[due]

    def _complete(self, rows: Integers, live: set[int]) -> Bits:
        slots = [slot for slot, rank in enumerate(self.ranks) if rank in live]
        seen = self.seen[rows]
        reported: Bits = np.any(seen, axis=1)
        owed = reported[:, None, :] & self.ever[slots] & ~seen[:, slots]
        # Who is beyond the step has reported it before, or will not: what it logs there again is a repeat.
        beyond = self.occurrences.first[slots] >= self.step[rows][:, None, None]
        owed &= ~beyond | (self.occurrence[rows] > 0)[:, None, None]
        complete: Bits = np.logical_not(np.any(owed, axis=(1, 2)))
        return complete

    def take(self, rows: Integers, is_dense: Callable[[int], bool]) -> Gathered:
        """Hand over ``rows`` and free them; the values of ranks that are dense are told as they are."""
        ranks = np.array(self.ranks, np.int64)
        order = np.argsort(ranks, kind="stable")
        ranks = ranks[order]
        seen = self.seen[rows][:, order]
        reported: Bits = np.any(seen, axis=(0, 1))
        self._note_soles(reported)
        always = np.array([is_dense(rank) for rank in ranks.tolist()], np.bool_)
        gathered = Gathered(
            self.names,
            ranks,
            always[:, None] | (self.sole == ranks[:, None]),
            self.step[rows],
            self.occurrence[rows],
            self.time_ns[rows],
            self.values[rows][:, order],
            seen,
        )
        self._release(rows)
        self.points -= int(np.count_nonzero(seen))
        return gathered

    def _note_soles(self, taken: Bits) -> None:
        """A metric's first taking settles whether one rank alone reports it."""
        columns = np.flatnonzero(taken & (self.sole == UNDECIDED))
        if not len(columns):
            return
        reporters = self.ever[: len(self.ranks), columns]
        first = np.array(self.ranks, np.int64)[reporters.argmax(axis=0)]
        self.sole[columns] = np.where(reporters.sum(axis=0) == 1, first, NOBODY)

    def _release(self, rows: Integers) -> None:
        for key in zip(self.step[rows].tolist(), self.occurrence[rows].tolist(), strict=True):
            del self.row_of[key]
        self.free.extend(rows.tolist())
        if not self.row_of and self.values.nbytes > _IDLE_BYTES_MAX:
            self.allocate(_ROWS_AT_FIRST)
            return
        self.seen[rows] = False

    def busy_ranks(self) -> Iterator[int]:
        """The ranks of which something is gathered."""
        seen = self.seen[self.live_rows()].any(axis=(0, 2))
        return (self.ranks[slot] for slot in np.flatnonzero(seen).tolist())


class Gathering:
    """One attempt: its panels, and how its ranks stand. ``admit`` says whether a metric may have a place."""

    def __init__(
        self, number: int, rules: Rules, books: Books, notices: list[str], admit: Callable[[str], bool]
    ) -> None:
        self.number = number
        self.world_size = 0
        self.live: set[int] = set()
        self.exit_codes: dict[int, int] = {}
        self.progress = RankProgress()
        self.panels: list[NodePanel] = []
        self.place_of: dict[str, tuple[int, int]] = {}
        self._rules = rules
        self._books = books
        self._notices = notices
        self._admit = admit

    def joined(self, rank: int, world_size: int) -> None:
        """A rank has come, or come back; the largest world size that a rank states holds."""
        self.world_size = max(self.world_size, world_size)
        if rank not in self.exit_codes:
            self.live.add(rank)

    # ---- metrics ---------------------------------------------------------------------------------

    def plan(self, names: tuple[str, ...]) -> Plan:
        """Where a block with these metrics goes; those not seen before form a new panel."""
        fresh = tuple(name for name in names if name not in self.place_of and self._admit(name))
        if fresh:
            self.add_panel(NodePanel(fresh))
        taken = tuple(name for name in names if name in self.place_of)
        parts = plan_parts([self.place_of.get(name) for name in names])
        return Plan(taken, parts, len(names) - len(taken))

    def add_panel(self, panel: NodePanel) -> None:
        """Have a further panel, whose metrics are in no other."""
        index = len(self.panels)
        self.panels.append(panel)
        self.place_of.update((name, (index, column)) for column, name in enumerate(panel.names))

    # ---- what comes ------------------------------------------------------------------------------

    def contribute(self, rank: int, plan: Plan, block: Rows, window: int) -> None:
        """Take in a rank's rows."""
        self._books.rejected += plan.refused * len(block.steps)
        steps, times_ns = block.steps, block.times_ns
        for part in plan.parts:
            panel = self.panels[part.panel]
            slot = panel.slot(rank)
            values = part.of_block(block.values)
            if panel.occurrences.advance(slot, part.columns, steps):
                rows = self._rows(panel, rank, steps, 0, times_ns, window)
                panel.write(slot, rows, part.columns, values)
                continue
            for occurrence, i, j in panel.occurrences.assign(slot, part.columns, steps):
                columns = part.columns[j]
                if occurrence >= limits.OCCURRENCES_PER_STEP_MAX:
                    name = panel.names[columns[0]]
                    self._books.reject_repeats(self._notices, rank, name, int(steps[i[0]]), len(columns))
                    continue
                rows = self._rows(panel, rank, steps[i], occurrence, times_ns[i], window)
                panel.write(slot, rows, columns, values[np.ix_(i, j)])

    def _rows(
        self,
        panel: NodePanel,
        rank: int,
        steps: Integers,
        occurrence: int,
        times_ns: Integers,
        window: int,
    ) -> Integers:
        """The rows of a rank's steps; the time of a row is the primary's, or of the rank that opened it."""
        rows = panel.rows_at(steps, occurrence, times_ns, window)
        if rank == self._rules.primary_rank:
            panel.time_ns[rows] = times_ns
        return rows

    # ---- what leaves -----------------------------------------------------------------------------

    def take(self, window: int, *, everything: bool) -> Iterator[Gathered]:
        """Hand over what is due at the cut that ends ``window``."""
        for panel in self.panels:
            if panel.row_of:
                rows = panel.live_rows() if everything else panel.due_rows(window, self.live)
                if len(rows):
                    yield panel.take(rows, self._is_dense)

    def _is_dense(self, rank: int) -> bool:
        return rank == self._rules.primary_rank or self._rules.records(rank)

    def busy_ranks(self) -> set[int]:
        """The ranks of which something is gathered still."""
        return {rank for panel in self.panels if panel.row_of for rank in panel.busy_ranks()}

    # ---- how it stands ---------------------------------------------------------------------------

    def waits(self) -> bool:
        """Whether there is something to tell."""
        return bool(self.open_rows()) or self.progress.waits()

    def open_rows(self) -> int:
        """Rows in use, over all panels."""
        return sum(len(panel.row_of) for panel in self.panels)

    def open_points(self) -> int:
        """Values that have not been taken."""
        return sum(panel.points for panel in self.panels)

    def open_bytes(self) -> int:
        """Memory held by rows in use."""
        return sum(panel.live_bytes() for panel in self.panels)
