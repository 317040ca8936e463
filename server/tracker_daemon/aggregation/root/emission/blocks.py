"""Makes record blocks of rows: reduces their closed cells, and lays them out in columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from tracker_daemon.aggregation.numbers.accumulator import reduce_with
from tracker_daemon.aggregation.numbers.summary import Floats, Integers, Summary
from tracker_daemon.aggregation.root.attempt import RootAttempt
from tracker_daemon.aggregation.root.emission.axes import SeriesAxes
from tracker_daemon.aggregation.root.emission.gathering import Gather
from tracker_daemon.aggregation.root.panel import EMITTED, NO_OWNER, RootPanel
from tracker_daemon.aggregation.root.rows import HomeRow
from tracker_daemon.aggregation.shared.panel import Bits
from tracker_daemon.aggregation.values.batch import Kinds
from tracker_daemon.aggregation.values.record import AxisColumn, RecordBlock, RecordTimes, TextCell
from tracker_daemon.rules.metric_names import STATISTICS, column_names, rank_column
from tracker_protocol.kinds import Kind

_BLOCK_CELLS_MAX = 1 << 17
"""Values in one block, so that an entry of the outbox stays about a mebibyte."""
_LAYOUTS_KEPT = 64
"""Sets of columns whose names a panel remembers."""
_COUNT = len(STATISTICS) + 1
_MINIMUM, _MAXIMUM = 1 + STATISTICS.index("min"), 1 + STATISTICS.index("max")


@dataclass(frozen=True, slots=True, eq=False)
class Emission:
    """Rows to emit, and their cells; of ``early`` rows the own values of open cells are emitted too."""

    rows: list[HomeRow]
    gathers: tuple[Gather, ...]
    early: Bits

    def slices(self, count: int) -> Iterator[Emission]:
        """Divide it into parts of at most ``count`` rows."""
        if len(self.rows) <= count:
            yield self
            return
        for first in range(0, len(self.rows), count):
            some = slice(first, first + count)
            gathers = tuple(one.between(first, first + count) for one in self.gathers)
            yield Emission(self.rows[some], gathers, self.early[some])


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """Columns that have at least one valid value: names (c,), values, valid and kinds (n, c).

    ``positions`` (n,) are those of the rows that have these columns.
    """

    positions: Integers
    names: tuple[str, ...]
    values: Floats
    valid: Bits
    kinds: Kinds | None


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """The values of n rows of a panel: ``closed`` and ``early`` (n, metrics) are those to emit.

    ``values``, ``seen`` and ``kinds`` (n, ranks, metrics) are the ``ranks``' own; ``accumulated`` is over
    others, and ``fractional`` (n, metrics) marks those that are not all integers.
    """

    closed: Bits
    early: Bits
    ranks: list[int]
    values: Floats
    seen: Bits
    kinds: Kinds | None
    accumulated: Summary | None
    fractional: Bits | None


class Emitter:
    """Makes the records of one run; ordinals continue from ``next_ordinal``."""

    def __init__(self, axes: SeriesAxes, next_ordinal: int = 1, times: RecordTimes | None = None) -> None:
        self.axes = axes
        self.next_ordinal = next_ordinal
        self.times = times or RecordTimes()

    def emit(self, attempt: RootAttempt, emissions: Iterable[Emission]) -> Iterator[RecordBlock]:
        """Yield the records of rows, in order; what they had in panels is released."""
        for emission in emissions:
            widths = {one.panel: _columns_per_row(attempt, one.panel) for one in emission.gathers}
            rows = max(1, _BLOCK_CELLS_MAX // max(1, sum(widths.values())))
            for part in emission.slices(rows):
                yield from self._records(attempt, part)

    def _records(self, attempt: RootAttempt, emission: Emission) -> Iterator[RecordBlock]:
        parts = [_panel_columns(attempt, one, emission.early) for one in emission.gathers if len(one.rows)]
        rows = emission.rows
        columns = _merged([*parts, *_numbers(rows)], len(rows))
        texts = [TextCell(i, name, text) for i, row in enumerate(rows) for name, text in row.texts.items()]
        kept: Bits = np.logical_or.reduce(columns.valid, axis=1)
        kept[[cell.row for cell in texts]] = True
        if not kept.any():
            return
        new_row = np.cumsum(kept) - 1
        emitted = [row for row, keep in zip(rows, kept.tolist(), strict=True) if keep]
        valid = columns.valid[kept]
        kinds = None if columns.kinds is None else columns.kinds[kept]
        block = RecordBlock(
            self.next_ordinal,
            attempt.number,
            columns.names,
            np.array([row.step for row in emitted], np.int64),
            np.array([self.times.next(row.step, row.time_ns) for row in emitted], np.int64),
            columns.values[kept],
            None if valid.all() else valid,
            tuple(TextCell(int(new_row[cell.row]), cell.column, cell.value) for cell in texts),
            kinds if kinds is not None and kinds.any() else None,
            self._axes(attempt, columns.names, valid, texts, new_row, emitted),
            self.axes.summaries(columns.names),
        )
        self.next_ordinal += len(block)
        yield block

    def _axes(
        self,
        attempt: RootAttempt,
        names: Sequence[str],
        valid: Bits,
        texts: Iterable[TextCell],
        new_row: Integers,
        rows: Sequence[HomeRow],
    ) -> tuple[AxisColumn, ...]:
        first_rows: dict[str, int] = {}
        for cell in texts:
            first_rows.setdefault(cell.column, int(new_row[cell.row]))
        return self.axes.columns(names, valid, first_rows, [row.axes for row in rows], attempt.place_of)


def _columns_per_row(attempt: RootAttempt, index: int) -> int:
    panel = attempt.panels[index]
    return panel.width * (_COUNT + 1 + len(_recorded(attempt, panel)))


def _recorded(attempt: RootAttempt, panel: RootPanel) -> list[int]:
    """Return, in order, the ranks that have own values recorded under their names."""
    ranks = [panel.ranks[slot] for slot in panel.rank_order()[1].tolist()]
    return [rank for rank in ranks if attempt.records(panel, rank)]


# ---- the columns of one panel --------------------------------------------------------------------


def _panel_columns(attempt: RootAttempt, gathered: Gather, early: Bits) -> _Columns:
    """Reduce the closed cells of a panel's rows and lay them out, metric by metric; release the rows."""
    panel, rows = attempt.panels[gathered.panel], gathered.rows
    attempt.naming.give_way(panel)
    cells = _cells(panel, gathered, early)
    attempt.books.folded += int((cells.seen & cells.closed[:, None, :]).sum())
    if cells.accumulated is not None:
        attempt.books.folded += int(cells.accumulated.count[cells.closed].sum())
    recorded = _recorded(attempt, panel)
    out = np.zeros((len(rows), panel.width, _COUNT + 1 + len(recorded)))
    valid = np.zeros(out.shape, np.bool_)
    kinds = np.zeros(out.shape, np.uint8)
    _own_values(attempt, panel, gathered, cells, out, valid, kinds)
    _statistics(panel, cells, out, valid, kinds)
    for position, rank in enumerate(recorded, _COUNT + 1):
        i = cells.ranks.index(rank)
        out[:, :, position] = cells.values[:, i]
        valid[:, :, position] = cells.seen[:, i] & cells.closed & (panel.owner != rank)
        if cells.kinds is not None:
            kinds[:, :, position] = cells.kinds[:, i]
    _mark(panel, rows, cells)
    return _valid_columns(attempt, panel, gathered.positions, recorded, (out, valid, kinds))


def _cells(panel: RootPanel, gathered: Gather, early: Bits) -> _Cells:
    rows = gathered.rows
    slots, values, seen, kinds = panel.own_values(rows)
    accumulated = fractional = None
    if panel.accumulators is not None:
        accumulated = panel.accumulators.at(rows, np.arange(panel.width))
        fractional = panel.accumulators.fractional[rows]
    ranks = [panel.ranks[slot] for slot in slots.tolist()]
    open_early = gathered.opened & early[gathered.positions][:, None]
    return _Cells(gathered.closed, open_early, ranks, values, seen, kinds, accumulated, fractional)


def _mark(panel: RootPanel, rows: Integers, cells: _Cells) -> None:
    """Mark the cells that are emitted, and free the rows that have no others."""
    i, j = np.nonzero(cells.closed)
    panel.state[rows[i], j] = EMITTED
    i, j = np.nonzero(cells.early)
    panel.own_out[rows[i], j] = True
    panel.release(np.unique(rows))


def _own_values(
    attempt: RootAttempt,
    panel: RootPanel,
    gathered: Gather,
    cells: _Cells,
    out: Floats,
    valid: Bits,
    kinds: Kinds,
) -> None:
    place = {rank: i for i, rank in enumerate(cells.ranks)}
    primary = attempt.rules.primary_rank
    owners = [primary if owner == NO_OWNER else owner for owner in panel.owner.tolist()]
    places = np.array([place.get(owner, -1) for owner in owners], np.int64)
    columns = np.flatnonzero(places >= 0)
    own = places[columns]
    wanted = (cells.closed & ~panel.own_out[gathered.rows]) | cells.early
    out[:, columns, 0] = cells.values[:, own, columns]
    valid[:, columns, 0] = cells.seen[:, own, columns] & wanted[:, columns]
    if cells.kinds is not None:
        kinds[:, columns, 0] = cells.kinds[:, own, columns]


def _statistics(panel: RootPanel, cells: _Cells, out: Floats, valid: Bits, kinds: Kinds) -> None:
    columns = np.flatnonzero(panel.aggregated & panel.wanted.any(axis=1) & cells.closed.any(axis=0))
    if not len(columns):
        return
    values, accumulated = cells.values, cells.accumulated
    seen = cells.seen & cells.closed[:, None, :]
    if len(columns) < panel.width:
        values, seen = values[:, :, columns], seen[:, :, columns]
        accumulated = None if accumulated is None else accumulated[:, columns]
    reduced = reduce_with(values, seen, cells.ranks, accumulated)
    closed, wanted = cells.closed[:, columns], panel.wanted[columns]
    some = (reduced.count > 0) & closed
    for kind, statistic in enumerate((reduced.mean, reduced.minimum, reduced.maximum, reduced.std)):
        out[:, columns, kind + 1] = statistic
        valid[:, columns, kind + 1] = some & wanted[:, kind]
    partial = reduced.count != panel.ever_member[:, columns].sum(axis=0)
    out[:, columns, _COUNT] = reduced.count
    valid[:, columns, _COUNT] = some & partial & wanted[:, _COUNT - 1]
    kinds[:, columns, _COUNT] = Kind.INT
    whole = _all_integers(cells)
    if whole is not None:
        for extreme in (_MINIMUM, _MAXIMUM):
            kinds[:, columns, extreme] = np.where(whole[:, columns], Kind.INT, Kind.FLOAT)


def _all_integers(cells: _Cells) -> Bits | None:
    """Return the cells of which all values were logged as integers; None if there are none."""
    if cells.kinds is None and (cells.fractional is None or bool(cells.seen.any())):
        return None
    whole: Bits = np.ones(cells.closed.shape, np.bool_)
    if cells.kinds is not None:
        whole &= ((cells.kinds == Kind.INT) | ~cells.seen).all(axis=1)
    if cells.fractional is not None:
        whole &= ~cells.fractional
    return whole


def _valid_columns(
    attempt: RootAttempt,
    panel: RootPanel,
    positions: Integers,
    recorded: list[int],
    laid_out: tuple[Floats, Bits, Kinds],
) -> _Columns:
    n = len(positions)
    out, valid, out_kinds = laid_out
    flat, flat_valid, flat_kinds = out.reshape(n, -1), valid.reshape(n, -1), out_kinds.reshape(n, -1)
    kept: Bits = np.logical_or.reduce(flat_valid, axis=0)
    names = _names(attempt, panel, recorded, kept)
    values, here, kinds = flat[:, kept], flat_valid[:, kept], flat_kinds[:, kept]
    if not here.all():
        values[~here] = 0.0  # an old value there would differ after a replay
        kinds[~here] = Kind.FLOAT
    return _Columns(positions, names, values, here, kinds if kinds.any() else None)


def _names(attempt: RootAttempt, panel: RootPanel, recorded: list[int], kept: Bits) -> tuple[str, ...]:
    """Return the names of the ``kept`` columns. They are fixed once emitted, so the panel remembers them."""
    layout = kept.tobytes(), tuple(recorded)
    names = panel.layouts.get(layout)
    if names is None:
        found = []
        for at in np.flatnonzero(kept).tolist():
            metric, kind = divmod(at, _COUNT + 1 + len(recorded))
            name = attempt.naming.shown(panel, metric, attempt)
            own = kind <= _COUNT
            found.append(column_names(name)[kind] if own else rank_column(name, recorded[kind - _COUNT - 1]))
        if len(panel.layouts) >= _LAYOUTS_KEPT:
            panel.layouts.clear()
        names = panel.layouts[layout] = tuple(found)
    return names


# ---- the columns of all rows ---------------------------------------------------------------------


def _numbers(rows: Sequence[HomeRow]) -> Iterator[_Columns]:
    """Yield the values from outside the panels, for each row that has any."""
    for position, row in enumerate(rows):
        if row.numbers:
            values = np.array([[value for value, _ in row.numbers.values()]])
            kinds = np.array([[kind for _, kind in row.numbers.values()]], np.uint8)
            here = np.ones(values.shape, np.bool_)
            yield _Columns(np.array([position]), tuple(row.numbers), values, here, kinds)


def _merged(parts: list[_Columns], n: int) -> _Columns:
    """Bring the columns of parts of the rows together; a column of several parts is one."""
    parts = [part for part in parts if part.names]
    if len(parts) == 1 and len(parts[0].positions) == n and (parts[0].positions == np.arange(n)).all():
        return parts[0]
    names = tuple(dict.fromkeys(chain.from_iterable(part.names for part in parts)))
    place = {name: i for i, name in enumerate(names)}
    values, valid = np.zeros((n, len(names))), np.zeros((n, len(names)), np.bool_)
    kinds = np.zeros((n, len(names)), np.uint8)
    for part in parts:
        i, j = np.nonzero(part.valid)
        at = part.positions[i], np.array([place[name] for name in part.names], np.int64)[j]
        values[at] = part.values[i, j]
        valid[at] = True
        if part.kinds is not None:
            kinds[at] = part.kinds[i, j]
    return _Columns(np.arange(n), names, values, valid, kinds if kinds.any() else None)
