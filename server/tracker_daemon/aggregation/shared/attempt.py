"""An attempt: its panels, the place of each metric in them, and the reports of ranks that go there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from tracker_daemon.aggregation.numbers.summary import Floats, Integers
from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.shared.marks import Key
from tracker_daemon.aggregation.shared.occurrence import UNPLACED
from tracker_daemon.aggregation.shared.panel import Panel
from tracker_daemon.aggregation.shared.placement import Index, Place, Plan, plan_parts
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.values.batch import Kinds, Rows

PanelT = TypeVar("PanelT", bound=Panel)


NO_ROW = -1
"""In place of a row's number, where it is unknown."""


@dataclass(frozen=True, slots=True, eq=False)
class RankReport:
    """A rank's report of some ``columns`` of a panel at n ``keys``: ``values`` (n, columns).

    ``index`` selects the columns in the panel's arrays. ``rising``: the steps rise, beyond all that the rank
    has reported of these metrics before. ``values`` are None if they are known only in a summary over several
    ranks. ``kinds`` (n, columns) are None if all values are floats. ``numbers`` (n,) are the numbers of the
    rank's rows, or NO_ROW. ``bars`` (n,) are the highest steps that the rank had logged when it reported each
    row.
    """

    rank: int
    keys: list[Key]
    columns: Integers
    index: Index
    times_ns: Integers
    values: Floats | None
    kinds: Kinds | None
    numbers: Integers
    bars: Integers
    rising: bool = False

    def rows(self, chosen: Integers, columns: Integers) -> RankReport:
        """Return the report of the rows at these indices, and of the columns at those."""
        cells = np.ix_(chosen, columns)
        taken = self.columns[columns]
        return RankReport(
            self.rank,
            [self.keys[row] for row in chosen.tolist()],
            taken,
            taken,
            self.times_ns[chosen],
            None if self.values is None else self.values[cells],
            None if self.kinds is None else self.kinds[cells],
            self.numbers[chosen],
            self.bars[chosen],
        )

    def lowest_step(self) -> int:
        """Return the lowest step."""
        return self.keys[0][0] if self.rising else min(step for step, _ in self.keys)

    def highest_step(self) -> int:
        """Return the highest step."""
        return self.keys[-1][0] if self.rising else max(step for step, _ in self.keys)


class Attempt(ABC, Generic[PanelT]):
    """One attempt of a run."""

    def __init__(self, number: int, rules: Rules, books: Books, notices: list[str]) -> None:
        self.number = number
        self.rules = rules
        self.books = books
        self.notices = notices
        self.panels: list[PanelT] = []
        self.place_of: dict[str, Place] = {}

    @abstractmethod
    def join(self, rank: int, world_size: int) -> None:
        """Note that a rank has connected; the largest world size that a rank states holds."""

    # ---- metrics ---------------------------------------------------------------------------------

    def plan(self, names: tuple[str, ...]) -> Plan:
        """Return the places of a block's metrics; those not seen before form a new panel."""
        fresh = tuple(name for name in names if name not in self.place_of and self.admits(name))
        if fresh:
            self.open_panel(fresh)
        taken = tuple(name for name in names if name in self.place_of)
        return Plan(taken, plan_parts([self.place_of.get(name) for name in names]), len(names) - len(taken))

    def admits(self, name: str) -> bool:  # noqa: ARG002 - a node has a bound
        """Return True if a new metric of this name may have a place."""
        return True

    @abstractmethod
    def open_panel(self, names: tuple[str, ...]) -> None:
        """Add a panel for these metrics, which are in no other."""

    def add_panel(self, panel: PanelT) -> None:
        """Add a panel, whose metrics are in no other."""
        index = len(self.panels)
        self.panels.append(panel)
        self.place_of.update((name, (index, column)) for column, name in enumerate(panel.names))

    # ---- reports ---------------------------------------------------------------------------------

    def reports(self, rank: int, plan: Plan, block: Rows, bars: Integers) -> Iterator[tuple[int, RankReport]]:
        """Yield a rank's rows as reports, each with the index of its panel; each cell is new to the rank.

        Values beyond the bounds of occurrences are given to :meth:`keep_unplaced` instead.
        """
        steps = block.steps
        keys: list[Key] = [(step, 0) for step in steps.tolist()]
        for part in plan.parts:
            panel = self.panels[part.panel]
            slot = panel.slot(rank)
            values, kinds = part.of_block(block.values), part.kinds_of(block)
            rising = panel.occurrences.advance(slot, part.index, steps)
            place, row_numbers = (part.columns, part.index), block.row_numbers
            whole = RankReport(rank, keys, *place, block.times_ns, values, kinds, row_numbers, bars, rising)
            if rising:
                yield part.panel, whole
                continue
            every_row = np.arange(len(steps))
            for columns, occurrences in panel.occurrences.assign(slot, part.columns, steps):
                its_keys = list(zip(steps.tolist(), occurrences.tolist(), strict=True))
                repeated = replace(whole, keys=its_keys)
                unplaced = np.flatnonzero(occurrences == UNPLACED)
                if not len(unplaced):
                    yield part.panel, repeated.rows(every_row, columns)
                    continue
                self.keep_unplaced(panel, repeated.rows(unplaced, columns))
                placed = np.flatnonzero(occurrences != UNPLACED)
                if len(placed):
                    yield part.panel, repeated.rows(placed, columns)

    @abstractmethod
    def keep_unplaced(self, panel: PanelT, report: RankReport) -> None:
        """Keep what can be kept of values that a rank has logged too often, or too far back."""

    # ---- open values -----------------------------------------------------------------------------

    def open_rows(self) -> int:
        """Return the rows in use, over all panels."""
        return sum(len(panel.row_of) for panel in self.panels)

    def open_bytes(self) -> int:
        """Return the memory held by rows in use."""
        return sum(panel.live_bytes() for panel in self.panels)

    @abstractmethod
    def open_points(self) -> int:
        """Return the values that have not left the attempt."""
