"""Values of which nothing is computed: texts, and numbers that mean something for one rank alone.

They wait for no rank: each joins the record of its step and occurrence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tracker_daemon.aggregation.root.attempt import RootAttempt
from tracker_daemon.aggregation.shared.marks import Key
from tracker_daemon.aggregation.shared.stream import StreamFold
from tracker_daemon.aggregation.values.batch import Rows, TextRows
from tracker_daemon.rules.metric_names import rank_column
from tracker_protocol import limits


def apply_texts(source: StreamFold, attempt: RootAttempt, names: tuple[str, ...], block: TextRows) -> None:
    """Apply texts, of the ranks whose own values are recorded."""
    recorded = attempt.rules.records_own_values(source.rank)
    for key, time_ns, column, text in _cells(source, attempt, names, block, recorded=recorded):
        attempt.extras_at(key, time_ns).texts[column] = text


def apply_numbers(source: StreamFold, attempt: RootAttempt, names: tuple[str, ...], block: Rows) -> None:
    """Apply numbers of which nothing is computed, of the ranks whose items are recorded."""
    recorded = attempt.rules.records_items(source.rank)
    for key, time_ns, column, number in _cells(source, attempt, names, block, recorded=recorded):
        if not attempt.is_computed(column):
            attempt.extras_at(key, time_ns).numbers[column] = float(number)


def _cells(
    source: StreamFold,
    attempt: RootAttempt,
    names: tuple[str, ...],
    block: Rows | TextRows,
    *,
    recorded: bool,
) -> Iterator[tuple[Key, int, str, Any]]:
    """Yield each value with its place: (step, occurrence), time and column."""
    attempt.books.folded += len(names) * len(block.steps)
    if not recorded:
        return
    rank, primary = source.rank, source.rank == attempt.rules.primary_rank
    axis = zip(block.steps.tolist(), block.times_ns.tolist(), strict=True)
    for (step, time_ns), values in zip(axis, block.values, strict=True):
        for name, value in zip(names, values, strict=True):
            occurrence = _occurrence(source.own_highs.setdefault(name, []), step)
            if occurrence >= limits.OCCURRENCES_PER_STEP_MAX:
                attempt.books.folded -= 1
                attempt.reject_repeats(rank, name, step, 1)
                continue
            yield (step, occurrence), time_ns, name if primary else rank_column(name, rank), value


def _occurrence(highs: list[int], step: int) -> int:
    """The rule of :mod:`tracker_daemon.aggregation.shared.occurrence`, for one metric's own values."""
    occurrence = sum(high >= step for high in highs)
    if occurrence < len(highs):
        highs[occurrence] = step
    elif occurrence < limits.OCCURRENCES_PER_STEP_MAX:
        highs.append(step)
    return occurrence
