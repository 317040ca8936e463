"""The summary of several ranks, as a node's daemon sends it, for the cells of one panel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracker_daemon.aggregation.numbers.summary import Integers, Summary
from tracker_daemon.aggregation.shared.attempt import NO_ROW, RankReport
from tracker_daemon.aggregation.shared.marks import Key
from tracker_daemon.aggregation.shared.panel import Bits


@dataclass(frozen=True, slots=True, eq=False)
class SummaryReport:
    """A summary (n, columns) over ``ranks``, which all reported the cells at n ``keys`` × ``columns``.

    ``fractional`` (n, columns) marks cells with a value that is no integer; None: all. ``times_ns`` and
    ``bars`` are as those of :class:`RankReport`.
    """

    ranks: list[int]
    slots: Integers
    keys: list[Key]
    columns: Integers
    times_ns: Integers
    bars: Integers
    summary: Summary
    fractional: Bits | None

    def report(self, rank: int) -> RankReport:
        """Return the report of one of the ranks, whose values are not known."""
        numbers = np.full(len(self.keys), NO_ROW, np.int64)
        return RankReport(
            rank, self.keys, self.columns, self.columns, self.times_ns, None, None, numbers, self.bars
        )

    def part(self, rows: Integers, columns: Integers) -> SummaryReport:
        """Return some of the cells, by the indices of keys and columns."""
        at = np.ix_(rows, columns)
        return SummaryReport(
            self.ranks,
            self.slots,
            [self.keys[row] for row in rows.tolist()],
            self.columns[columns],
            self.times_ns[rows],
            self.bars[rows],
            self.summary[at],
            None if self.fractional is None else self.fractional[at],
        )
