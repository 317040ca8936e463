"""Two small languages, parsed: the ranks that are recorded, and the ranks that report a metric.

A *rank set* is ``"0,8-15"``, ``"all"`` or ``""`` (none). *Reporter rules* are written
``"lr=primary,eval/*=primary"``: globs over metric names, each with the metric's reporters. The first value of
such a metric need not wait until the daemon has learned its reporters. Both parse to frozen values whose
``str()`` is their canonical form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

from tracker_protocol.limits import METRIC_NAME_MAX_BYTES, WORLD_SIZE_MAX

ALL_RANKS = "all"


@dataclass(frozen=True, slots=True)
class RankSet:
    """A set of ranks as disjoint inclusive ranges in rising order; ``everything`` is all ranks."""

    ranges: tuple[tuple[int, int], ...] = ()
    everything: bool = False

    @staticmethod
    def parse(text: str) -> RankSet:
        """Read ``"0,8-15"``, ``"all"`` or ``""``.

        Raises:
            ValueError: the message names the part that is no rank and no range, and what is allowed.
        """
        if text.strip().lower() == ALL_RANKS:
            return RankSet(everything=True)
        parts = [part.strip() for part in text.split(",")]
        return RankSet(_merged(_range(part) for part in parts if part))

    @staticmethod
    def of(ranks: Iterable[int]) -> RankSet:
        """Return the set of these ranks."""
        return RankSet(_merged((rank, rank) for rank in ranks))

    def __contains__(self, rank: int) -> bool:
        return self.everything or any(low <= rank <= high for low, high in self.ranges)

    def __str__(self) -> str:
        if self.everything:
            return ALL_RANKS
        return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in self.ranges)


class Reporters(str, Enum):
    """The reporters of a metric."""

    PRIMARY = "primary"
    """The primary rank alone."""
    ALL = "all"
    """Every rank."""


@dataclass(frozen=True, slots=True)
class ReporterRules:
    """Globs over metric names, in order; the first that fits decides."""

    rules: tuple[tuple[str, Reporters], ...] = ()

    @staticmethod
    def parse(text: str) -> ReporterRules:
        """Read ``"lr=primary,eval/*=primary"``; a glob ends at its rule's last ``=``.

        Raises:
            ValueError: the message names the rule that cannot be read, and what is allowed.
        """
        parts = [part.strip() for part in text.split(",")]
        return ReporterRules(tuple(_rule(part) for part in parts if part))

    def reporters_of(self, metric: str) -> Reporters | None:
        """Return the reporters of ``metric``; None if no rule fits."""
        return next((who for glob, who in self.rules if fnmatchcase(metric, glob)), None)

    def __str__(self) -> str:
        return ",".join(f"{glob}={who.value}" for glob, who in self.rules)


def _range(part: str) -> tuple[int, int]:
    low, dash, high = part.partition("-")
    try:
        bounds = _rank(low), _rank(high if dash else low)
    except ValueError as error:
        msg = f"{part!r} is neither a rank nor a range of ranks ({error}); write '0,8-15', 'all' or ''"
        raise ValueError(msg) from None
    if bounds[0] > bounds[1]:
        msg = f"the range {part!r} ends before it begins; write the lower rank first"
        raise ValueError(msg)
    return bounds


def _rank(text: str) -> int:
    digits = text.strip()
    # int() also takes "+1", "1_0" and other scripts' digits, which are never meant here.
    if not (digits.isascii() and digits.isdigit()):
        msg = f"{digits!r} is not a whole number"
        raise ValueError(msg)
    if len(digits) > 18 or int(digits) >= WORLD_SIZE_MAX:
        msg = f"ranks end at {WORLD_SIZE_MAX - 1}"
        raise ValueError(msg)
    return int(digits)


def _merged(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return tuple(merged)


def _rule(part: str) -> tuple[str, Reporters]:
    glob, equals, who = (piece.strip() for piece in part.rpartition("="))
    if not equals or not glob:
        msg = f"{part!r} is no rule; write GLOB=primary or GLOB=all, as in 'lr=primary,eval/*=primary'"
        raise ValueError(msg)
    if len(glob.encode()) > METRIC_NAME_MAX_BYTES:
        msg = f"the glob {glob[:40]!r}… is longer than a metric's name may be ({METRIC_NAME_MAX_BYTES} bytes)"
        raise ValueError(msg)
    try:
        return glob, Reporters(who.lower())
    except ValueError:
        msg = f"{who!r} in {part!r} is no choice of reporters; it is 'primary' or 'all'"
        raise ValueError(msg) from None
