"""How far a node's ranks have come, as the root is told: last steps, and flushes.

A rank's flush says that all it had logged by then has arrived, and the root may act on it: so it is told
after all of that has been forwarded. What a rank logged in a window is forwarded by the cut that ends the
next one. A flush without anything new since the one before is told only where the root asks for it: it
says that the rank has not logged, all this time, what others have.
"""

from __future__ import annotations

import numpy as np

from tracker_daemon.aggregation.shared.contribution import NO_STEP, Progress

_NOTHING_YET = -1


class RankProgress:
    """The ranks of one attempt."""

    def __init__(self) -> None:
        self.last_step: dict[int, int] = {}
        self.logged_in: dict[int, int] = {}
        """By rank the window in which its latest values came."""
        self.changed: set[int] = set()
        """Ranks whose last step has not been told."""
        self.idle: set[int] = set()
        """Ranks that have sent nothing since their last flush."""
        self.flushes: dict[int, list[int]] = {}
        """By rank the flushes to be told, each as the window of the latest values before it."""

    def logged(self, rank: int, step: int, window: int) -> None:
        """A rank has logged values, the last of them at ``step``."""
        self.logged_in[rank] = window
        if self.last_step.get(rank) != step:
            self.last_step[rank] = step
            self.changed.add(rank)

    def heard(self, rank: int) -> None:
        """A rank has sent something."""
        self.idle.discard(rank)

    def flushed(self, rank: int, *, again: bool = False) -> None:
        """All that a rank has logged is here; to be told ``again``, though nothing is new since it was."""
        if rank in self.idle and not again:
            return
        self.idle.add(rank)
        windows = self.flushes.setdefault(rank, [])
        window = self.logged_in.get(rank, _NOTHING_YET)
        if window not in windows:
            windows.append(window)

    def waits(self) -> bool:
        """Whether there is something to tell."""
        return bool(self.changed or self.flushes)

    def take(self, number: int, window: int, busy: set[int]) -> Progress | None:
        """What is told at the cut that ends ``window``, of attempt ``number``; None if there is nothing.

        Of the ranks in ``busy`` something is gathered still, which came in ``window``.
        """
        flushed = self._take_flushes(window, busy)
        ranks = sorted(self.changed | flushed)
        self.changed.clear()
        if not ranks:
            return None
        return Progress(
            number,
            np.array(ranks, np.int64),
            np.array([self.last_step.get(rank, NO_STEP) for rank in ranks], np.int64),
            np.array([rank in flushed for rank in ranks], np.bool_),
        )

    def _take_flushes(self, window: int, busy: set[int]) -> set[int]:
        told = set()
        for rank, windows in list(self.flushes.items()):
            left = [at for at in windows if rank in busy and at >= window]
            if len(left) < len(windows):
                told.add(rank)
            if left:
                self.flushes[rank] = left
            else:
                del self.flushes[rank]
        return told
