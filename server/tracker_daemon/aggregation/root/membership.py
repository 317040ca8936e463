"""Membership: the expected ranks of an attempt, without those that finished, were lost or never connected."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class Membership:
    """The ranks of one attempt. ``world_size`` 0 means unknown: the ranks seen are expected.

    A *lagging* rank is still expected, but nothing waits for it until it has caught up.
    """

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.seen: set[int] = set()
        self.gone: dict[int, str] = {}
        self.exit_codes: dict[int, int] = {}
        self.exited: dict[int, bool] = {}
        """The ranks that ended without a call of ``finish()``; False while the exit status is awaited."""
        self.vanished: set[int] = set()
        """Those of the lost ranks whose processes were seen to end."""
        self.command_status = 0
        """The exit status of the launch's command, once it has ended."""
        self.lagging: set[int] = set()
        self.lost_ns: int | None = None
        """The time of the last loss of a rank, as long as a rank is lost."""

    def joined(self, rank: int, world_size: int) -> None:
        """Note that a rank has connected; the largest world size that a rank states holds."""
        self.world_size = max(self.world_size, world_size)
        self.seen.add(rank)
        if self.gone.get(rank) in ("lost", "absent"):
            del self.gone[rank]
            self.vanished.discard(rank)
            if "lost" not in self.gone.values():
                self.lost_ns = None

    def left(self, rank: int, how: str) -> None:
        """Note that a rank is "finished", "lost" or "absent"."""
        self.gone[rank] = how

    def exit(self, rank: int, code: int | None, *, awaited: bool = False) -> None:
        """Note that a rank ended without ``finish()``; ``code`` None: its status is awaited, or unknown."""
        self.exited[rank] = not awaited
        if code is not None:
            self.exit_codes[rank] = code

    def give_up_statuses(self) -> None:
        """Wait for no exit status any more."""
        self.exited = dict.fromkeys(self.exited, True)

    def lost(self, now_ns: int) -> None:
        """Note the time at which ranks were lost."""
        self.lost_ns = now_ns

    def _all(self) -> Iterable[int]:
        return range(self.world_size) if self.world_size else self.seen

    def may_have(self, ranks: NDArray[np.int64]) -> bool:
        """Return True if these ranks, ascending, can belong to the attempt.

        Of an attempt of unknown size, only ranks that have connected can.
        """
        return int(ranks[-1]) < self.world_size if self.world_size else self.seen.issuperset(ranks.tolist())

    def expected(self) -> set[int]:
        """Return the ranks that may send data."""
        return set(self._all()) - self.gone.keys()

    def expected_count(self) -> int:
        """Return the number of ranks that may send data."""
        if not self.world_size:
            return len(self.seen - self.gone.keys())
        return self.world_size - sum(rank < self.world_size for rank in self.gone)

    def is_awaited(self, rank: int) -> bool:
        """Return True if cells may wait for this rank."""
        return rank not in self.gone and rank not in self.lagging

    def awaited(self) -> NDArray[np.bool_]:
        """Return, by rank, which ranks the first cell of a metric waits for."""
        ranks = self._mask(self._all())
        for rank in (*self.gone, *self.lagging):
            if rank < len(ranks):
                ranks[rank] = False
        return ranks

    def connected(self) -> NDArray[np.bool_]:
        """Return, by rank, which ranks have connected and are not gone."""
        return self._mask(self.seen - self.gone.keys())

    def _mask(self, ranks: Iterable[int]) -> NDArray[np.bool_]:
        mask = np.zeros(max(self.world_size, max(self.seen, default=-1) + 1), np.bool_)
        if isinstance(ranks, range):
            mask[ranks.start : ranks.stop] = True
        else:
            mask[list(ranks)] = True
        return mask

    def none_awaited(self) -> bool:
        """Return True if cells may wait for no rank that has connected."""
        return not any(map(self.is_awaited, self.seen))

    def is_alone(self, rank: int) -> bool:
        """Return True if no other rank is expected."""
        return self.expected() <= {rank}

    def expects_several(self) -> bool:
        """Return True if more than one rank is expected."""
        return self.expected_count() > 1

    def over(self) -> bool:
        """Return True if there was a rank, every rank has ended, and no exit status is awaited."""
        return bool(self.gone or self.seen) and self.expected_count() == 0 and all(self.exited.values())
