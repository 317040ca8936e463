"""The names of what is recorded for a metric.

``loss`` is the primary rank's own value (or the only reporter's), ``loss/mean`` and so on are
across ranks, ``loss/count`` is how many ranks they are over where that is not all of them, and
``loss/rank8`` is the own value of a rank that is recorded beside the primary.
"""

from __future__ import annotations

STATISTICS = ("mean", "min", "max", "std")
SUFFIXES = (*STATISTICS, "count")
DROPPED_POINTS = "tracker/dropped_points"
_RANK_DIGITS_MAX = 18


def aggregate_base(name: str) -> str | None:
    """The metric that ``name`` would be an aggregate of, None if its name is not of that form."""
    base, slash, suffix = name.rpartition("/")
    return base if slash and base and suffix in SUFFIXES else None


def rank_base(name: str) -> tuple[str, int] | None:
    """The metric and the rank whose own value's name would be ``name``, None if it is not of that form."""
    base, slash, last = name.rpartition("/")
    digits = last.removeprefix("rank")
    if not (slash and base and digits.isascii() and digits.isdigit() and len(digits) <= _RANK_DIGITS_MAX):
        return None
    rank = int(digits)
    return (base, rank) if rank_column(base, rank) == name else None


def column_names(metric: str) -> tuple[str, ...]:
    """The columns of a metric: its own value, its statistics, its count."""
    return (metric, *(f"{metric}/{suffix}" for suffix in SUFFIXES))


def rank_column(metric: str, rank: int) -> str:
    """Where a recorded rank's own value goes."""
    return f"{metric}/rank{rank}"
