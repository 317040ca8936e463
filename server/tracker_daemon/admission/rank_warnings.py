"""Warnings that ranks send: equal ones of several ranks become one sentence for the primary rank.

A *cause* is a text, whatever its numbers. Its warnings are gathered for WARNING_GATHER_S after the first one,
and after that for WARNING_INTERVAL_S at a time. Free of clocks: times are passed in, in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tracker_daemon.rules.rank_selection import RankSet
from tracker_protocol import limits

_NUMBER = re.compile(r"\d+")


@dataclass(slots=True)
class _Cause:
    text: str
    due_s: float
    ranks: set[int] = field(default_factory=set)


class RankWarnings:
    """The warnings of all runs that are gathered now."""

    def __init__(self) -> None:
        self._runs: dict[str, dict[str, _Cause]] = {}

    def add(self, run_id: str, rank: int, text: str, now_s: float) -> None:
        """Add a rank's warning."""
        causes = self._runs.setdefault(run_id, {})
        name = _NUMBER.sub("#", text)
        if name not in causes and len(causes) >= limits.WARNING_CAUSES_MAX:
            return
        cause = causes.setdefault(name, _Cause(text, now_s + limits.WARNING_GATHER_S))
        cause.text = text
        cause.ranks.add(rank)

    def take_due(self, now_s: float) -> Iterator[tuple[str, str]]:
        """Yield the run and the sentence of each cause that is due."""
        for run_id, causes in self._runs.items():
            for cause in causes.values():
                if cause.ranks and cause.due_s <= now_s:
                    yield run_id, _sentence(cause)
                    cause.due_s = now_s + limits.WARNING_INTERVAL_S
                    cause.ranks.clear()

    def hurry(self, run_id: str) -> None:
        """Let all gathered warnings of a run be due: its primary rank ends, or the daemon does."""
        for cause in self._runs.get(run_id, {}).values():
            if cause.ranks:
                cause.due_s = 0.0

    def hurry_all(self) -> None:
        """Let the causes of all runs be due."""
        for run_id in self._runs:
            self.hurry(run_id)

    def forget(self, run_ids: frozenset[str]) -> None:
        """Forget all runs but ``run_ids``."""
        for run_id in self._runs.keys() - run_ids:
            del self._runs[run_id]


def _sentence(cause: _Cause) -> str:
    ranks = RankSet.of(cause.ranks)
    return f"rank{'s' if len(cause.ranks) > 1 else ''} {ranks}: {cause.text}"
