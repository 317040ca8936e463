"""The names of the recorded columns of a metric.

* ``loss``: the primary rank's own value, or the only reporter's.
* ``loss/mean``, ``loss/min``, ``loss/max``, ``loss/std``: over the ranks.
* ``loss/count``: the number of these ranks, if it is not all of them.
* ``loss/rank8``: the own value of a rank that is recorded beside the primary.
* ``loss/mean/logged``: the script's own metric ``loss/mean``, where the daemon computes that name.
"""

from __future__ import annotations

STATISTICS = ("mean", "min", "max", "std")
SUFFIXES = (*STATISTICS, "count")
DROPPED_POINTS = "tracker/dropped_points"
_RANK_DIGITS_MAX = 18


def aggregate_base(name: str) -> str | None:
    """Return the metric of which ``name`` would be an aggregate; None if the name has not that form."""
    base, slash, suffix = name.rpartition("/")
    return base if slash and base and suffix in SUFFIXES else None


def rank_base(name: str) -> tuple[str, int] | None:
    """Return the metric and rank whose own value would have this name; None if it has not that form."""
    base, slash, last = name.rpartition("/")
    digits = last.removeprefix("rank")
    if not (slash and base and digits.isascii() and digits.isdigit() and len(digits) <= _RANK_DIGITS_MAX):
        return None
    rank = int(digits)
    return (base, rank) if rank_column(base, rank) == name else None


def column_names(metric: str) -> tuple[str, ...]:
    """Return the columns of a metric: its own value, its statistics, its count."""
    return (metric, *(f"{metric}/{suffix}" for suffix in SUFFIXES))


def logged_name(metric: str) -> str:
    """Return the name of a script's metric whose own name the daemon uses for a value across ranks."""
    return f"{metric}/logged"


def rank_column(metric: str, rank: int) -> str:
    """Return the column of a recorded rank's own values."""
    return f"{metric}/rank{rank}"
