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
from tracker_daemon.aggregation.root.panel.cells import EMITTED, NO_OWNER
from tracker_daemon.aggregation.root.panel.contributions import RootPanel
from tracker_daemon.aggregation.root.rows import HomeRow
from tracker_daemon.aggregation.shared.panel import Bits
from tracker_daemon.aggregation.shared.placement import Index, numbers_of
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

    def at(self, chosen: Bits) -> _Columns:
        """Return some rows."""
        kinds = None if self.kinds is None else self.kinds[chosen]
        return _Columns(self.positions[chosen], self.names, self.values[chosen], self.valid[chosen], kinds)


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """The values of n rows of a panel: ``closed`` and ``early`` (n, metrics) are those to emit.

    ``values``, ``seen`` and ``kinds`` (n, ranks, metrics) are the ``ranks``' own; ``counted`` marks those of
    closed cells. ``accumulated`` is over others, and ``fractional`` (n, metrics) marks those that are not all
    integers. ``early`` is None if there are none.
    """

    rows: Index
    closed: Bits
    early: Bits | None
    ranks: list[int]
    values: Floats
    seen: Bits
    counted: Bits
    kinds: Kinds | None
    accumulated: Summary | None
    fractional: Bits | None


class _Layout:
    """The columns of n rows of a panel, metric by metric: arrays (n, metrics, columns of a metric)."""

    def __init__(self, rows: int, metrics: int, columns: int) -> None:
        self.values: Floats = np.zeros((rows, metrics, columns))
        self.valid: Bits = np.zeros(self.values.shape, np.bool_)
        self.kinds: Kinds | None = None

    def set_kinds(self, metrics: Index, column: int, kinds: Kinds | int) -> None:
        """Set the kinds of a column of some metrics; the others are floats."""
        if self.kinds is None:
            self.kinds = np.zeros(self.values.shape, np.uint8)
        self.kinds[:, metrics, column] = kinds


class Emitter:
    """Makes the records of one run; ordinals continue from ``next_ordinal``."""

    def __init__(self, axes: SeriesAxes, next_ordinal: int = 1, times: RecordTimes | None = None) -> None:
        self.axes = axes
        self.next_ordinal = next_ordinal
        self.times = times or RecordTimes()

    def emit(self, attempt: RootAttempt, emissions: Iterable[Emission]) -> Iterator[RecordBlock]:
        """Yield the records of rows, in order; what they had in panels is released."""
        for emission in emissions:
            panels = [attempt.panels[index] for index in {one.panel for one in emission.gathers}]
            for part in emission.slices(_rows_per_block(attempt, panels, len(emission.rows))):
                yield from self._records(attempt, part)

    def _records(self, attempt: RootAttempt, emission: Emission) -> Iterator[RecordBlock]:
        parts = [
            _panel_columns(attempt, one, emission.early) for one in emission.gathers if len(one.positions)
        ]
        rows = emission.rows
        columns = _merged([*parts, *_numbers(rows)], len(rows))
        texts = [TextCell(i, name, text) for i, row in enumerate(rows) for name, text in row.texts.items()]
        kept: Bits = np.logical_or.reduce(columns.valid, axis=1)
        if not kept.all():
            kept[[cell.row for cell in texts]] = True
            if not kept.any():
                return
            new_row = np.cumsum(kept) - 1
            rows = [row for row, keep in zip(rows, kept.tolist(), strict=True) if keep]
            texts = [TextCell(int(new_row[cell.row]), cell.column, cell.value) for cell in texts]
            columns = columns.at(kept)
        steps = [row.step for row in rows]
        block = RecordBlock(
            self.next_ordinal,
            attempt.number,
            columns.names,
            np.array(steps, np.int64),
            self.times.of(steps, np.array([row.time_ns for row in rows], np.int64)),
            columns.values,
            None if columns.valid.all() else columns.valid,
            tuple(texts),
            columns.kinds if columns.kinds is not None and columns.kinds.any() else None,
            self._axes(attempt, columns, texts, rows),
            self.axes.summaries(columns.names),
        )
        self.next_ordinal += len(block)
        yield block

    def _axes(
        self, attempt: RootAttempt, columns: _Columns, texts: Iterable[TextCell], rows: Sequence[HomeRow]
    ) -> tuple[AxisColumn, ...]:
        first_rows: dict[str, int] = {}
        for cell in texts:
            first_rows.setdefault(cell.column, cell.row)
        axes = [row.axes for row in rows]
        return self.axes.columns(columns.names, columns.valid, first_rows, axes, attempt.place_of)


def _rows_per_block(attempt: RootAttempt, panels: list[RootPanel], rows: int) -> int:
    widest = sum(panel.width * (_COUNT + 1 + len(panel.placed)) for panel in panels)
    if rows * widest <= _BLOCK_CELLS_MAX:
        return rows
    width = sum(panel.width * (_COUNT + 1 + len(_recorded(attempt, panel))) for panel in panels)
    return max(1, _BLOCK_CELLS_MAX // max(1, width))


def _recorded(attempt: RootAttempt, panel: RootPanel) -> list[int]:
    """Return, in order, the ranks that have own values recorded under their names."""
    return [rank for rank in panel.rank_order()[0] if attempt.records(panel, rank)]


# ---- the columns of one panel --------------------------------------------------------------------


def _panel_columns(attempt: RootAttempt, gathered: Gather, early: Bits) -> _Columns:
    """Reduce the closed cells of a panel's rows and lay them out, metric by metric; release the rows."""
    panel = attempt.panels[gathered.panel]
    attempt.naming.give_way(panel)
    cells = _cells(panel, gathered, early)
    attempt.books.folded += int(np.count_nonzero(cells.counted))
    if cells.accumulated is not None:
        attempt.books.folded += int(cells.accumulated.count[cells.closed].sum())
    recorded = _recorded(attempt, panel)
    layout = _Layout(len(cells.closed), panel.width, _COUNT + 1 + len(recorded))
    _own_values(attempt, panel, cells, layout)
    _statistics(panel, cells, layout)
    for position, rank in enumerate(recorded, _COUNT + 1):
        i = cells.ranks.index(rank)
        layout.values[:, :, position] = cells.values[:, i]
        layout.valid[:, :, position] = cells.counted[:, i] & (panel.owner != rank)
        if cells.kinds is not None:
            layout.set_kinds(slice(None), position, cells.kinds[:, i])
    _mark(panel, cells)
    return _valid_columns(attempt, panel, gathered.positions, recorded, layout)


def _cells(panel: RootPanel, gathered: Gather, early: Bits) -> _Cells:
    rows, closed = gathered.rows, gathered.closed
    ranks, values, seen, kinds = panel.own_values(rows)
    accumulated = fractional = None
    if panel.accumulators is not None:
        accumulated = panel.accumulators.at(numbers_of(rows), np.arange(panel.width))
        fractional = panel.accumulators.fractional[rows]
    counted = seen if closed.all() else seen & closed[:, None, :]
    open_early = gathered.opened & early[gathered.positions][:, None] if early.any() else None
    return _Cells(rows, closed, open_early, ranks, values, seen, counted, kinds, accumulated, fractional)


def _mark(panel: RootPanel, cells: _Cells) -> None:
    """Mark the cells that are emitted, and free the rows that have no others."""
    panel.set_state(cells.rows, cells.closed, EMITTED)
    if cells.early is not None:
        i, j = cells.early.nonzero()
        panel.own_out[numbers_of(cells.rows)[i], j] = True
    panel.release(cells.rows)


def _own_values(attempt: RootAttempt, panel: RootPanel, cells: _Cells, layout: _Layout) -> None:
    place = {rank: i for i, rank in enumerate(cells.ranks)}
    primary = attempt.rules.primary_rank
    owners = [primary if owner == NO_OWNER else owner for owner in panel.owner.tolist()]
    columns: Index = slice(None)
    own: int | Integers = place.get(owners[0], -1)
    if len(set(owners)) > 1:
        places = np.array([place.get(owner, -1) for owner in owners], np.int64)
        columns = np.flatnonzero(places >= 0)
        own = places[columns]
    elif own == -1:
        return
    closed = cells.closed
    if panel.own_out[cells.rows].any():
        closed = closed & ~panel.own_out[cells.rows]
    wanted = closed if cells.early is None else closed | cells.early
    layout.values[:, columns, 0] = cells.values[:, own, columns]
    layout.valid[:, columns, 0] = cells.seen[:, own, columns] & wanted[:, columns]
    if cells.kinds is not None:
        layout.set_kinds(columns, 0, cells.kinds[:, own, columns])


def _statistics(panel: RootPanel, cells: _Cells, layout: _Layout) -> None:
    chosen: Bits = panel.aggregated & panel.wanted.any(axis=1) & cells.closed.any(axis=0)
    if not chosen.any():
        return
    columns: Index = slice(None)
    values, counted, accumulated = cells.values, cells.counted, cells.accumulated
    if not chosen.all():
        columns = np.flatnonzero(chosen)
        values, counted = values[:, :, columns], counted[:, :, columns]
        accumulated = None if accumulated is None else accumulated[:, columns]
    reduced = reduce_with(values, counted, cells.ranks, accumulated)
    some, wanted = (reduced.count > 0) & cells.closed[:, columns], panel.wanted[columns]
    for kind, statistic in enumerate((reduced.mean, reduced.minimum, reduced.maximum, reduced.std)):
        layout.values[:, columns, kind + 1] = statistic
        layout.valid[:, columns, kind + 1] = some & wanted[:, kind]
    some &= reduced.count != panel.derived().ever_members[columns]  # the count of a partial cell
    if some.any():
        layout.values[:, columns, _COUNT] = reduced.count
        layout.valid[:, columns, _COUNT] = some & wanted[:, _COUNT - 1]
        layout.set_kinds(columns, _COUNT, Kind.INT)
    whole = _all_integers(cells)
    if whole is not None:
        for extreme in (_MINIMUM, _MAXIMUM):
            layout.set_kinds(columns, extreme, np.where(whole[:, columns], Kind.INT, Kind.FLOAT))


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
    attempt: RootAttempt, panel: RootPanel, positions: Integers, recorded: list[int], layout: _Layout
) -> _Columns:
    n = len(positions)
    valid = layout.valid.reshape(n, -1)
    kept: Bits = np.logical_or.reduce(valid, axis=0)
    names = _names(attempt, panel, recorded, kept)
    chosen = kept.nonzero()[0]
    values, here = layout.values.reshape(n, -1).take(chosen, axis=1), valid.take(chosen, axis=1)
    kinds = None if layout.kinds is None else layout.kinds.reshape(n, -1).take(chosen, axis=1)
    if not here.all():
        values[~here] = 0.0  # an old value there would differ after a replay
        if kinds is not None:
            kinds[~here] = Kind.FLOAT
    return _Columns(positions, names, values, here, kinds if kinds is not None and kinds.any() else None)


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
    names = tuple(dict.fromkeys(chain.from_iterable(part.names for part in parts)))
    if parts and len(names) == sum(len(part.names) for part in parts) and _all_have(parts, np.arange(n)):
        return parts[0] if len(parts) == 1 else _beside(parts, names)
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


def _all_have(parts: list[_Columns], positions: Integers) -> bool:
    return all(np.array_equal(part.positions, positions) for part in parts)


def _beside(parts: list[_Columns], names: tuple[str, ...]) -> _Columns:
    """Put parts that are of the same rows, and have no column in common, beside each other."""
    values = np.concatenate([part.values for part in parts], axis=1)
    valid = np.concatenate([part.valid for part in parts], axis=1)
    kinds = None
    if any(part.kinds is not None for part in parts):
        of_parts = (np.zeros(p.values.shape, np.uint8) if p.kinds is None else p.kinds for p in parts)
        kinds = np.concatenate(list(of_parts), axis=1)
    return _Columns(parts[0].positions, names, values, valid, kinds)
