"""Makes record blocks of closed cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np

from tracker_daemon.aggregation.numbers.accumulator import reduce_with
from tracker_daemon.aggregation.numbers.summary import Floats, Integers, Summary
from tracker_daemon.aggregation.root.attempt import Extras, RootAttempt
from tracker_daemon.aggregation.root.panel import CLOSED, EMITTED, NO_OWNER, RootPanel
from tracker_daemon.aggregation.shared.marks import Key
from tracker_daemon.aggregation.shared.panel import Bits
from tracker_daemon.aggregation.values.record import RecordBlock, TextCell
from tracker_daemon.rules.metric_names import STATISTICS, column_names, rank_column

_BLOCK_CELLS_MAX = 1 << 17
"""Values in one block, so that an entry of the outbox stays about a mebibyte."""
_COUNT = len(STATISTICS) + 1


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """Columns that have at least one valid value: names (c,), values and valid (n, c)."""

    names: tuple[str, ...]
    values: Floats
    valid: Bits


@dataclass(frozen=True, slots=True, eq=False)
class _ClosedRows:
    """The values of n rows of a panel, and which cells are ``closed`` (n, metrics).

    ``values`` (n, ranks, metrics) are the ``ranks``' own, where ``seen``; ``accumulated`` is over others.
    """

    closed: Bits
    ranks: list[int]
    values: Floats
    seen: Bits
    accumulated: Summary | None


class Emitter:
    """Makes the records of one run; ordinals continue from ``next_ordinal``."""

    def __init__(self, next_ordinal: int = 1) -> None:
        self.next_ordinal = next_ordinal

    def emit(self, attempt: RootAttempt, keys: list[Key]) -> list[RecordBlock]:
        """Emit the records of ``keys``, in that order; their rows are released."""
        blocks = []
        for panels, run in groupby(keys, lambda key: tuple(p for p, _ in attempt.parts_at.get(key, ()))):
            alike = list(run)
            rows = max(1, _BLOCK_CELLS_MAX // max(1, sum(map(partial(_columns_per_row, attempt), panels))))
            for start in range(0, len(alike), rows):
                blocks.extend(self._block(attempt, panels, alike[start : start + rows]))
        return blocks

    def _block(self, attempt: RootAttempt, panels: tuple[int, ...], keys: list[Key]) -> list[RecordBlock]:
        parts, times = [], np.zeros(len(keys), np.int64)
        for position, index in enumerate(panels):
            panel = attempt.panels[index]
            rows = np.array([attempt.parts_at[key][position][1] for key in keys], np.int64)
            parts.append(_panel_columns(attempt, panel, rows))
            times = np.maximum(times, panel.time_ns[rows])
            panel.release(keys, rows)
        columns = _concatenate(parts, len(keys))
        extras = [attempt.extras.pop(key, None) for key in keys]
        for key in keys:
            attempt.parts_at.pop(key, None)
        return self._records(attempt.number, keys, times, columns, extras)

    def _records(
        self,
        attempt: int,
        keys: list[Key],
        times: Integers,
        columns: _Columns,
        extras: list[Extras | None],
    ) -> list[RecordBlock]:
        texts: list[TextCell] = []
        if any(extras):
            columns, texts = _with_extras(columns, extras, times)
        kept: Bits = np.logical_or.reduce(columns.valid, axis=1)
        kept[[cell.row for cell in texts]] = True
        if not kept.any():
            return []
        new_row = np.cumsum(kept) - 1
        steps = np.array(keys, np.int64)[kept]
        valid = columns.valid[kept]
        block = RecordBlock(
            self.next_ordinal,
            attempt,
            columns.names,
            steps[:, 0],
            steps[:, 1],
            times[kept],
            columns.values[kept],
            None if valid.all() else valid,
            tuple(TextCell(int(new_row[cell.row]), cell.column, cell.value) for cell in texts),
        )
        self.next_ordinal += len(block)
        return [block]


def _columns_per_row(attempt: RootAttempt, index: int) -> int:
    panel = attempt.panels[index]
    return panel.width * (_COUNT + 1 + len(_recorded(attempt, panel)))


def _recorded(attempt: RootAttempt, panel: RootPanel) -> list[int]:
    """Return, in order, the ranks that have own values recorded under their names."""
    ranks = [panel.ranks[slot] for slot in panel.rank_order()[1].tolist()]
    return [rank for rank in ranks if attempt.records(panel, rank)]


def _panel_columns(attempt: RootAttempt, panel: RootPanel, rows: Integers) -> _Columns:
    """Reduce the closed cells of ``rows`` and lay them out, metric by metric."""
    cells = _cells(panel, rows)
    attempt.books.folded += int(cells.seen.sum())
    if cells.accumulated is not None:
        attempt.books.folded += int(cells.accumulated.count[cells.closed].sum())
    recorded = _recorded(attempt, panel)
    out = np.zeros((len(rows), panel.width, _COUNT + 1 + len(recorded)))
    valid = np.zeros(out.shape, np.bool_)
    _own_values(attempt, panel, cells, out, valid)
    _statistics(panel, cells, out, valid)
    for position, rank in enumerate(recorded, _COUNT + 1):
        i = cells.ranks.index(rank)
        out[:, :, position] = cells.values[:, i]
        valid[:, :, position] = cells.seen[:, i] & (panel.owner != rank)
    state = panel.state[rows]
    state[cells.closed] = EMITTED
    panel.state[rows] = state
    return _valid_columns(panel, recorded, out, valid)


def _cells(panel: RootPanel, rows: Integers) -> _ClosedRows:
    closed = panel.state[rows] == CLOSED
    slots, values, seen = panel.own_values(rows)
    accumulated = None
    if panel.accumulators is not None:
        accumulated = panel.accumulators.at(rows, np.arange(panel.width))
    ranks = [panel.ranks[slot] for slot in slots.tolist()]
    return _ClosedRows(closed, ranks, values, seen & closed[:, None, :], accumulated)


def _own_values(attempt: RootAttempt, panel: RootPanel, cells: _ClosedRows, out: Floats, valid: Bits) -> None:
    position = {rank: i for i, rank in enumerate(cells.ranks)}
    owners = np.array([position.get(rank, NO_OWNER) for rank in panel.owner.tolist()])
    columns = np.flatnonzero(owners != NO_OWNER)
    own = owners[columns]
    out[:, columns, 0] = cells.values[:, own, columns]
    valid[:, columns, 0] = cells.seen[:, own, columns]
    for column, name in enumerate(panel.names):
        if attempt.is_computed(name):
            valid[:, column, 0] = False


def _statistics(panel: RootPanel, cells: _ClosedRows, out: Floats, valid: Bits) -> None:
    columns = np.flatnonzero(panel.aggregated & panel.wanted.any(axis=1) & cells.closed.any(axis=0))
    if not len(columns):
        return
    values, seen, accumulated = cells.values, cells.seen, cells.accumulated
    if len(columns) < panel.width:
        values, seen = values[:, :, columns], seen[:, :, columns]
        accumulated = None if accumulated is None else accumulated[:, columns]
    reduced = reduce_with(values, seen, cells.ranks, accumulated)
    some, wanted = reduced.count > 0, panel.wanted[columns]
    for kind, statistic in enumerate((reduced.mean, reduced.minimum, reduced.maximum, reduced.std)):
        out[:, columns, kind + 1] = statistic
        valid[:, columns, kind + 1] = some & wanted[:, kind]
    partial = reduced.count != panel.ever_member[:, columns].sum(axis=0)
    out[:, columns, _COUNT] = reduced.count
    valid[:, columns, _COUNT] = some & partial & wanted[:, _COUNT - 1]


def _valid_columns(panel: RootPanel, recorded: list[int], out: Floats, valid: Bits) -> _Columns:
    n = len(out)
    flat, flat_valid = out.reshape(n, -1), valid.reshape(n, -1)
    kept: Bits = np.logical_or.reduce(flat_valid, axis=0)
    names = [
        name
        for metric in panel.names
        for name in (*column_names(metric), *(rank_column(metric, rank) for rank in recorded))
    ]
    chosen = tuple(name for name, keep in zip(names, kept.tolist(), strict=True) if keep)
    values, here = flat[:, kept], flat_valid[:, kept]
    if not here.all():
        values[~here] = 0.0  # an old value there would differ after a replay
    return _Columns(chosen, values, here)


def _concatenate(parts: list[_Columns], n: int) -> _Columns:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return _Columns((), np.zeros((n, 0)), np.zeros((n, 0), np.bool_))
    return _Columns(
        tuple(name for part in parts for name in part.names),
        np.concatenate([part.values for part in parts], axis=1),
        np.concatenate([part.valid for part in parts], axis=1),
    )


def _with_extras(
    columns: _Columns, extras: list[Extras | None], times: Integers
) -> tuple[_Columns, list[TextCell]]:
    """Add the values from outside the panels; set the ``times`` of rows that had none."""
    texts: list[TextCell] = []
    numbers: list[tuple[int, str, float]] = []
    for row, extra in enumerate(extras):
        if extra is None:
            continue
        times[row] = times[row] or extra.time_ns
        texts.extend(TextCell(row, name, text) for name, text in extra.texts.items())
        numbers.extend((row, name, number) for name, number in extra.numbers.items())
    names = tuple(dict.fromkeys((*columns.names, *(name for _, name, _ in numbers))))
    place = {name: i for i, name in enumerate(names)}
    width = len(columns.names)
    values = np.zeros((len(extras), len(names)))
    valid = np.zeros(values.shape, np.bool_)
    values[:, :width], valid[:, :width] = columns.values, columns.valid
    for row, name, number in numbers:
        values[row, place[name]] = number
        valid[row, place[name]] = True
    return _Columns(names, values, valid), texts
