"""The progress of a node's ranks, for the root: last steps, and flushes.

A *flush* of a rank means: everything that the rank had logged by then has arrived. The root acts on it, so
the root must receive a flush after all these values. Values of one window are forwarded at the latest when
the next window ends. A repeated flush, with nothing new since the one before, is sent only if the root asks
for it. It shows that the rank has logged nothing meanwhile, although other ranks have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.shared.bars import bars_of
from tracker_daemon.aggregation.values.batch import Rows, TextRows
from tracker_daemon.aggregation.values.contribution import NO_STEP, Progress

_NOTHING_YET = -1


class RankProgress:
    """The progress of one attempt's ranks."""

    def __init__(self) -> None:
        self.last_step: dict[int, int] = {}
        self.high: dict[int, int] = {}
        """By rank the highest step that it has logged."""
        self.forwarded_high: dict[int, int] = {}
        """By rank the highest step at the end of the window before: these values were forwarded."""
        self.logged_in: dict[int, int] = {}
        """By rank the window in which its latest values arrived."""
        self.changed: set[int] = set()
        """Ranks whose last step the root does not know."""
        self.idle: set[int] = set()
        """Ranks that have sent nothing since their last flush."""
        self.flushes: dict[int, list[int]] = {}
        """By rank the unsent flushes, each as the window of the latest values before it."""

    def note_rows(self, rank: int, blocks: Sequence[Rows | TextRows], window: int) -> list[Integers]:
        """Note the rows of a batch; return for each block the highest step logged at each of its rows."""
        if not blocks:
            return []
        bars = bars_of(blocks, self.high.get(rank, NO_STEP))
        newest = max(blocks, key=lambda block: int(block.row_numbers[-1]))
        step, high = int(newest.steps[-1]), max(int(block_bars[-1]) for block_bars in bars)
        self.logged_in[rank] = window
        if (self.last_step.get(rank), self.high.get(rank)) != (step, high):
            self.last_step[rank], self.high[rank] = step, high
            self.changed.add(rank)
        return bars

    def note_activity(self, rank: int) -> None:
        """Note that a rank has sent something."""
        self.idle.discard(rank)

    def note_flush(self, rank: int, *, again: bool = False) -> bool:
        """Note that everything a rank has logged is here; a repeated flush is sent only with ``again``.

        Returns:
            True if the flush is to be sent.
        """
        if rank in self.idle and not again:
            return False
        self.idle.add(rank)
        windows = self.flushes.setdefault(rank, [])
        window = self.logged_in.get(rank, _NOTHING_YET)
        if window not in windows:
            windows.append(window)
        return True

    def has_news(self) -> bool:
        """Return True if there is something to send."""
        return bool(self.changed or self.flushes)

    def take(self, number: int, window: int, busy: set[int]) -> Progress | None:
        """Remove and return the progress of attempt ``number`` to send when ``window`` ends; None if none.

        ``busy`` are the ranks with values that arrived in ``window`` and are not forwarded yet.
        """
        flushed = self._take_flushes(window, busy)
        ranks = sorted(self.changed | flushed)
        if not ranks:
            return None
        # The root must not learn that a rank has passed a cell before it has the rank's earlier values.
        known = {**self.high, **{rank: self.forwarded_high.get(rank, NO_STEP) for rank in busy}}
        self.forwarded_high.update((rank, self.high[rank]) for rank in self.changed)
        self.changed &= busy
        return Progress(
            number,
            np.array(ranks, np.int64),
            np.array([self.last_step.get(rank, NO_STEP) for rank in ranks], np.int64),
            np.array([known.get(rank, NO_STEP) for rank in ranks], np.int64),
            np.array([rank in flushed for rank in ranks], np.bool_),
        )

    def _take_flushes(self, window: int, busy: set[int]) -> set[int]:
        taken = set()
        for rank, windows in list(self.flushes.items()):
            left = [at for at in windows if rank in busy and at >= window]
            if len(left) < len(windows):
                taken.add(rank)
            if left:
                self.flushes[rank] = left
            else:
                del self.flushes[rank]
        return taken
