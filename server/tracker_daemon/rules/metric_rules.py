"""Per-metric settings: rules by glob, written like ``"lr=none,loss=mean+max"``.

A rule is GLOB=VALUE. Rules are separated by commas, and the first whose glob fits decides. A settings file
may have them as a table. A run's own rules precede the daemon's. A glob is compared with a column's whole
name and with the column's metric: ``eval/*`` also means ``eval/acc/mean`` and ``eval/acc/rank8``.

=================  =============================================================================
setting            values
=================  =============================================================================
``aggregates``     ``all``, ``none``, or some of mean, min, max, std and count, as ``mean+max``
``step_axes``      the metric that is the axis, as ``epoch``; ``step`` is the training step
``summaries``      ``last``, ``min``, ``max``, ``mean``, ``none``
``thinning``       ``10`` (each tenth value), ``5s`` or ``500ms`` (of each such time the first, the
                   last, the least and the greatest value), ``none``; its globs begin with a
                   backend's name or glob, as in ``mlflow:*``
=================  =============================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Generic, TypeVar

import msgspec
from msgspec.structs import astuple

from tracker_daemon.rules.metric_names import SUFFIXES, aggregate_base, rank_base
from tracker_protocol import limits

T = TypeVar("T")
NONE = "none"
ALL = "all"
STEP = "step"
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s|min)")
_NS_OF = {"ms": 1_000_000, "s": 1_000_000_000, "min": 60_000_000_000}


class Summary(str, Enum):
    """The value of a metric that represents the run."""

    LAST = "last"
    MIN = "min"
    MAX = "max"
    MEAN = "mean"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Thinning:
    """The values for a backend: each ``every``-th, or the extremes of each ``window_ns``; both 0: all."""

    every: int = 0
    window_ns: int = 0

    def __bool__(self) -> bool:
        return bool(self.every or self.window_ns)


class MetricSettings(msgspec.Struct, frozen=True):
    """The rules of one run as texts, which have been checked."""

    aggregates: str = ""
    step_axes: str = ""
    summaries: str = ""
    thinning: str = ""

    def before(self, others: MetricSettings) -> MetricSettings:
        """Return these rules, followed by ``others``."""
        pairs = zip(astuple(self), astuple(others), strict=True)
        return MetricSettings(*(",".join(filter(None, pair)) for pair in pairs))

    def check(self) -> None:
        """Raise ValueError for a rule that cannot be read; the message names the setting."""
        readers: tuple[Callable[[str], object], ...] = (
            read_aggregates, read_step_axes, read_summaries, read_thinning,
        )  # fmt: skip
        for name, text, read in zip(self.__struct_fields__, astuple(self), readers, strict=True):
            try:
                read(text)
            except ValueError as error:
                msg = f"{name}: {error}"
                raise ValueError(msg) from None


@dataclass(frozen=True, slots=True)
class MetricRules(Generic[T]):
    """Globs in order, each with a value; the first that fits decides."""

    rules: tuple[tuple[str, T], ...] = ()

    def of(self, column: str) -> T | None:
        """Return the value for a column; None if no rule fits."""
        names = (column, metric_of(column))
        return next(
            (value for glob, value in self.rules if any(fnmatchcase(name, glob) for name in names)), None
        )


def metric_of(column: str) -> str:
    """Return the metric of a column: ``loss`` for ``loss/mean`` and ``loss/rank8``."""
    base = aggregate_base(column)
    if base is not None:
        return base
    of_rank = rank_base(column)
    return column if of_rank is None else of_rank[0]


def read_aggregates(text: str) -> MetricRules[frozenset[str]]:
    """Read ``"lr=none,loss=mean+max"``.

    Raises:
        ValueError: the message names the rule that cannot be read, and what is allowed.
    """
    return _read(text, _aggregates)


def read_step_axes(text: str) -> MetricRules[str]:
    """Read ``"eval/*=epoch"``; raises as :func:`read_aggregates`."""
    return _read(text, _axis)


def read_summaries(text: str) -> MetricRules[Summary]:
    """Read ``"loss=min,eval/acc=max"``; raises as :func:`read_aggregates`."""
    return _read(text, _summary)


def read_thinning(text: str, backend: str | None = None) -> MetricRules[Thinning]:
    """Read ``"mlflow:eval/*=none,mlflow:*=5s"``: the rules of ``backend``, or all of them to check them.

    Raises as :func:`read_aggregates`.
    """
    rules = _read(text, _thinning).rules
    split = [(*glob.partition(":"), value) for glob, value in rules]
    for name, colon, glob, _ in split:
        if not (name and colon and glob):
            msg = f"{name!r} names no backend; write BACKEND:GLOB=VALUE, as in 'mlflow:*=5s'"
            raise ValueError(msg)
    return MetricRules(
        tuple(
            (glob, value) for name, _, glob, value in split if backend is None or fnmatchcase(backend, name)
        )
    )


def canonical(text: str, read: Callable[[str], object]) -> str:
    """Return ``text`` in its canonical form; raises what ``read`` raises for it."""
    read(text)
    return ",".join(f"{glob}={value}" for glob, value in _split(text))


@lru_cache(maxsize=256)
def _split(text: str) -> tuple[tuple[str, str], ...]:
    """Return (glob, value) of each rule; a glob ends at its rule's last ``=``."""
    if len(text) > limits.METRIC_RULES_MAX_CHARACTERS:
        msg = f"the rules have {len(text)} characters; {limits.METRIC_RULES_MAX_CHARACTERS} may be given"
        raise ValueError(msg)
    rules = []
    for part in filter(None, map(str.strip, text.split(","))):
        glob, equals, value = (piece.strip() for piece in part.rpartition("="))
        if not equals or not glob:
            msg = f"{part!r} is no rule; write GLOB=VALUE"
            raise ValueError(msg)
        rules.append((glob, value))
    return tuple(rules)


def _read(text: str, value_of: Callable[[str], T]) -> MetricRules[T]:
    rules = []
    for glob, value in _split(text):
        try:
            rules.append((glob, value_of(value)))
        except ValueError as error:
            msg = f"{value!r} in '{glob}={value}' {error}"
            raise ValueError(msg) from None
    return MetricRules(tuple(rules))


def _aggregates(text: str) -> frozenset[str]:
    named = {name.strip().lower() for name in text.split("+")}
    if named <= {ALL, NONE} and len(named) == 1:
        return frozenset(SUFFIXES) if named == {ALL} else frozenset()
    if not named <= set(SUFFIXES):
        msg = f"is no choice of aggregates; it is 'all', 'none', or some of {', '.join(SUFFIXES)} with +"
        raise ValueError(msg)
    return frozenset(named)


def _axis(text: str) -> str:
    if not text or len(text.encode()) > limits.METRIC_NAME_MAX_BYTES:
        msg = "names no metric that could be the axis"
        raise ValueError(msg)
    return text


def _summary(text: str) -> Summary:
    try:
        return Summary(text.lower())
    except ValueError:
        msg = f"is no summary; it is one of {', '.join(kind.value for kind in Summary)}"
        raise ValueError(msg) from None


def _thinning(text: str) -> Thinning:
    if text.lower() == NONE:
        return Thinning()
    if text.isascii() and text.isdigit() and 0 < len(text) <= 9 and int(text) >= 1:
        return Thinning(every=int(text))
    duration = _DURATION.fullmatch(text.lower())
    window_ns = int(float(duration[1]) * _NS_OF[duration[2]]) if duration else 0
    if window_ns <= 0:
        msg = "is no way to thin; it is 'none', a number (each tenth: 10) or a time (5s, 500ms, 1min)"
        raise ValueError(msg)
    return Thinning(window_ns=window_ns)
