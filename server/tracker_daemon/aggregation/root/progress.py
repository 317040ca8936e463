"""The progress of an attempt's ranks: how far each has logged, and when everything it logged had arrived."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.shared.bars import bars_of
from tracker_daemon.aggregation.values.batch import Rows, TextRows
from tracker_daemon.aggregation.values.contribution import NO_STEP

NEVER_FLUSHED = -1
_NO_ROW = -1
_ARRAYS = {
    "high": NO_STEP,
    "last_step": NO_STEP,
    "flushed_ns": NEVER_FLUSHED,
    "newest_row": _NO_ROW,
    "reported_row": _NO_ROW,
    "flushed_row": _NO_ROW,
}


class RankProgress:
    """Arrays by rank, and the ranks whose highest step has risen in this tick.

    ``high`` is the highest step that a rank has logged, ``last_step`` the step of its newest row, NO_STEP
    before any. ``flushed_ns`` is the time of its last flush. ``newest_row`` is the number of its newest row;
    a row with a lower number is complete. ``reported_row`` is the highest number that a node's daemon has
    sent without saying that. ``flushed_row`` was the highest of both at the last flush.
    """

    high: Integers
    last_step: Integers
    flushed_ns: Integers
    newest_row: Integers
    reported_row: Integers
    flushed_row: Integers

    def __init__(self) -> None:
        for name in _ARRAYS:
            setattr(self, name, np.empty(0, np.int64))
        self.raised: set[int] = set()

    def reserve(self, ranks: int) -> None:
        """Make room for ``ranks`` ranks."""
        had = len(self.high)
        if ranks <= had:
            return
        for name, initial in _ARRAYS.items():
            grown = np.full(max(ranks, 2 * had), initial, np.int64)
            grown[:had] = getattr(self, name)
            setattr(self, name, grown)

    # ---- in --------------------------------------------------------------------------------------

    def note_rows(self, rank: int, blocks: Sequence[Rows | TextRows]) -> list[Integers]:
        """Note the rows of a batch; return for each block the highest step logged at each of its rows."""
        if not blocks:
            return []
        self.reserve(rank + 1)
        bars = bars_of(blocks, int(self.high[rank]))
        newest = max(blocks, key=lambda block: int(block.row_numbers[-1]))
        self.last_step[rank] = newest.steps[-1]
        self.newest_row[rank] = max(int(self.newest_row[rank]), int(newest.row_numbers[-1]))
        self.raise_high(rank, max(int(block_bars[-1]) for block_bars in bars))
        return bars

    def note_reported_row(self, rank: int, number: int) -> None:
        """Note the number of a row that a node's daemon has sent."""
        self.reserve(rank + 1)
        self.reported_row[rank] = max(int(self.reported_row[rank]), number)

    def note_step(self, rank: int, last_step: int, high: int) -> None:
        """Note how far a rank is that a node's daemon reports on."""
        self.reserve(rank + 1)
        self.last_step[rank] = last_step
        self.raise_high(rank, high)

    def raise_high(self, rank: int, high: int) -> None:
        """Note the highest step that a rank has logged."""
        if high > self.high[rank]:
            self.high[rank] = high
            self.raised.add(rank)

    def flush(self, rank: int, now_ns: int) -> None:
        """Note that everything the rank had logged by now is here."""
        self.flush_reported(rank, now_ns)
        self.flushed_row[rank] = max(int(self.newest_row[rank]), int(self.flushed_row[rank]))

    def flush_reported(self, rank: int, now_ns: int) -> None:
        """Note a flush that a node's daemon reports: later rows of a forwarded stream may be here too."""
        self.reserve(rank + 1)
        self.flushed_ns[rank] = now_ns
        self.flushed_row[rank] = max(int(self.flushed_row[rank]), int(self.reported_row[rank]))

    def forget_flushes(self) -> None:
        """Forget when ranks flushed: the daemon was away."""
        self.flushed_ns[:] = NEVER_FLUSHED

    # ---- state -----------------------------------------------------------------------------------

    def is_whole(self, rank: int, number: int) -> bool:
        """Return True if nothing more can join the rank's row of this number."""
        if rank >= len(self.high):
            return False
        return number < int(self.newest_row[rank]) or number <= int(self.flushed_row[rank])

    def last_steps(self) -> dict[int, int]:
        """Return the step of each rank's newest row."""
        ranks = np.flatnonzero(self.last_step != NO_STEP)
        return dict(zip(ranks.tolist(), self.last_step[ranks].tolist(), strict=True))

    def oldest_flush_ns(self, ranks: NDArray[np.bool_]) -> int:
        """Return the earliest of these ranks' last flushes; NEVER_FLUSHED if one has not flushed."""
        self.reserve(len(ranks))
        flushed = self.flushed_ns[: len(ranks)][ranks]
        return int(flushed.min()) if len(flushed) else NEVER_FLUSHED

    def plain(self) -> dict[str, Any]:
        """Return the arrays."""
        return {name: getattr(self, name) for name in _ARRAYS}
