"""An attempt: its panels, the place of each metric in them, and the reports of ranks that go there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from tracker_daemon.aggregation.numbers.summary import Floats, Integers
from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.shared.marks import Key
from tracker_daemon.aggregation.shared.panel import Panel
from tracker_daemon.aggregation.shared.placement import Place, Plan, plan_parts
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.values.batch import Rows
from tracker_protocol import limits

PanelT = TypeVar("PanelT", bound=Panel)


@dataclass(frozen=True, slots=True, eq=False)
class RankReport:
    """A rank's report of some ``columns`` of a panel at n ``keys``: ``values`` (n, columns).

    ``values`` are None if they are known only in a summary over several ranks.
    """

    rank: int
    keys: list[Key]
    columns: Integers
    times_ns: Integers
    values: Floats | None


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

    def reports(self, rank: int, plan: Plan, block: Rows) -> Iterator[tuple[int, RankReport]]:
        """Yield a rank's rows as reports, each with the index of its panel and of one occurrence per key."""
        steps, times_ns = block.steps, block.times_ns
        keys: list[Key] = [(step, 0) for step in steps.tolist()]
        for part in plan.parts:
            panel = self.panels[part.panel]
            slot = panel.slot(rank)
            values = part.of_block(block.values)
            if panel.occurrences.advance(slot, part.columns, steps):
                yield part.panel, RankReport(rank, keys, part.columns, times_ns, values)
                continue
            for occurrence, i, j in panel.occurrences.assign(slot, part.columns, steps):
                columns = part.columns[j]
                if occurrence >= limits.OCCURRENCES_PER_STEP_MAX:
                    self.reject_repeats(rank, panel.names[columns[0]], int(steps[i[0]]), len(columns))
                    continue
                at = [(keys[row][0], occurrence) for row in i.tolist()]
                yield part.panel, RankReport(rank, at, columns, times_ns[i], values[np.ix_(i, j)])

    def reject_repeats(self, rank: int, name: str, step: int, points: int) -> None:
        """Reject values of a metric that a rank has logged too often at one step."""
        self.books.reject_repeats(self.notices, rank, name, step, points)

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
