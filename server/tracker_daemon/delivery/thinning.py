"""Thinning: chooses the values for a backend that is slower than the run. Pure.

The records alone decide, not the clock and not the slices in which entries are read. So entries that are
delivered again after a crash are thinned in the same way.

* *Every n-th value*: values are counted for each column, over the whole run.
* *Extremes of a window*: the first, the last, the least and the greatest value of a column, and its first
  NaN: what a chart of that width shows. A window is an interval of the records' own time. Its entries wait
  until a later record or the run's end follows, or until they weigh THINNING_GROUP_BYTES_MAX. Records with
  different columns are thinned separately, so a window may keep more than four of them.

Texts are never thinned. A step axis (``epoch``) of a record's other values stays wherever one of
its record's values stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.values.record import AxisColumn, RecordBlock, TextCell
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_daemon.rules.metric_rules import MetricRules, Thinning
from tracker_protocol.limits import THINNING_GROUP_BYTES_MAX

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ThinningRules:
    """The rules by column."""

    rules: MetricRules[Thinning]

    @property
    def window_ns(self) -> int:
        """The longest window of any rule in ns; 0 if there is none."""
        return max((thinning.window_ns for _, thinning in self.rules.rules), default=0)


@dataclass(slots=True)
class Thinned:
    """The whole ``records`` and the ``points`` (values) left out so far; ``counts``: values by column."""

    records: int = 0
    points: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def copy(self) -> Thinned:
        """Return a copy for the next delivery, which may fail."""
        return replace(self, counts=dict(self.counts))


@dataclass(frozen=True, slots=True, eq=False)
class _ColumnRules:
    """The rules for a block's columns: each n-th value (0: all), window in ns (0: none)."""

    every: NDArray[np.int64]
    window_ns: NDArray[np.int64]

    @property
    def thins(self) -> bool:
        return bool(self.every.any() or self.window_ns.any())


class Thinner:
    """Thins one run for one backend."""

    def __init__(self, rules: ThinningRules) -> None:
        self._rules = rules
        self._window_ns = rules.window_ns
        self._column_rules: dict[tuple[str, ...], _ColumnRules] = {}

    def count_decided(self, entries: Sequence[OutboxEntry]) -> int:
        """Return how many entries, from the first, can be thinned by now. The first begins a group."""
        if not self._window_ns:
            return len(entries)
        groups = _groups(entries, self._window_ns)
        return groups[-1].stop if groups and groups[-1].closed else sum(len(group) for group in groups[:-1])

    def thin(self, entries: Sequence[OutboxEntry], so_far: Thinned) -> list[OutboxEntry]:
        """Return the entries with the values that stay; adds the others to ``so_far``."""
        if not self._window_ns:
            return self._thin_group(entries, so_far)
        return [
            entry
            for group in _groups(entries, self._window_ns)
            for entry in self._thin_group(entries[group.start : group.stop], so_far)
        ]

    def _thin_group(self, entries: Sequence[OutboxEntry], so_far: Thinned) -> list[OutboxEntry]:
        blocks = {entry.number: block for entry in entries if (block := _block(entry)) is not None}
        masks = self._masks(list(blocks.values()), so_far)
        kept = []
        for entry in entries:
            block = blocks.get(entry.number)
            mask = None if block is None else masks.get(id(block))
            if block is None or mask is None:
                kept.append(entry)
                continue
            smaller = _masked(block, mask)
            so_far.records += len(block) - len(smaller)
            so_far.points += int(_valid(block).sum() - mask.sum())
            if len(smaller):
                kept.append(replace(entry, payload=smaller.to_bytes()))
        return kept

    def _masks(self, blocks: Sequence[RecordBlock], so_far: Thinned) -> dict[int, Mask]:
        """Return by block (its id) a mask of the values that stay; no mask for a block that stays whole."""
        alike: defaultdict[tuple[str, ...], list[RecordBlock]] = defaultdict(list)
        for block in blocks:
            alike[block.columns].append(block)
        masks: dict[int, Mask] = {}
        for columns, same in alike.items():
            rules = self._rules_of(columns)
            if not rules.thins:
                continue
            valid = np.concatenate([_valid(block) for block in same])
            values = np.concatenate([block.values for block in same])
            times_ns = np.concatenate([block.times_ns for block in same])
            axes = {axis.name for block in same for axis in block.axes}
            is_axis = np.array([column in axes for column in columns], np.bool_)
            kept = _kept(columns, rules, is_axis, values, valid, times_ns, so_far)
            ends = np.cumsum([len(block) for block in same])[:-1]
            masks.update({id(block): part for block, part in zip(same, np.split(kept, ends), strict=True)})
        return masks

    def _rules_of(self, columns: tuple[str, ...]) -> _ColumnRules:
        rules = self._column_rules.get(columns)
        if rules is None:
            found = [self._rules.rules.of(column) or Thinning() for column in columns]
            rules = self._column_rules[columns] = _ColumnRules(
                np.array([thinning.every for thinning in found], np.int64),
                np.array([thinning.window_ns for thinning in found], np.int64),
            )
        return rules


# ---- groups of entries ---------------------------------------------------------------------------


@dataclass(slots=True)
class _Group:
    """The entries from ``start`` up to ``stop``. If ``closed``, no further entry joins."""

    start: int
    stop: int
    window: int | None = None
    weight_bytes: int = 0
    closed: bool = False

    def __len__(self) -> int:
        return self.stop - self.start


def _groups(entries: Sequence[OutboxEntry], window_ns: int) -> list[_Group]:
    """Group the entries by the window in which each begins. An earlier time stays in the present window."""
    groups: list[_Group] = []
    for position, entry in enumerate(entries):
        window = _window(entry, window_ns)
        last = groups[-1] if groups else None
        if last is not None and not last.closed:
            last.closed = None not in (window, last.window) and (window or 0) > (last.window or 0)
        if last is None or last.closed:
            last = _Group(position, position)
            groups.append(last)
        last.stop = position + 1
        last.window = window if last.window is None else last.window
        # Only RECORDS count: other entries may be missing here (in another lane) and must not decide.
        last.weight_bytes += len(entry.payload) if entry.kind is EntryKind.RECORDS else 0
        last.closed = entry.kind is EntryKind.END or last.weight_bytes >= THINNING_GROUP_BYTES_MAX
    return groups


def _window(entry: OutboxEntry, window_ns: int) -> int | None:
    block = _block(entry)
    return None if block is None or not len(block) else int(block.times_ns[0]) // window_ns


def _block(entry: OutboxEntry) -> RecordBlock | None:
    """Return an entry's records; None if it has none that can be read, which the backend reports."""
    if entry.kind is not EntryKind.RECORDS:
        return None
    try:
        return RecordBlock.from_bytes(entry.payload)
    except ValueError:
        return None


# ---- values --------------------------------------------------------------------------------------


def _kept(
    columns: tuple[str, ...],
    rules: _ColumnRules,
    is_axis: Mask,
    values: NDArray[np.float64],
    valid: Mask,
    times_ns: NDArray[np.int64],
    so_far: Thinned,
) -> Mask:
    """Return a mask (rows, columns) of the values that stay."""
    kept = valid.copy()
    for column in np.flatnonzero(rules.every).tolist():
        name, there = columns[column], valid[:, column]
        before = so_far.counts.get(name, 0)
        counted = before + np.cumsum(there) - 1
        kept[:, column] = there & (counted % rules.every[column] == 0)
        so_far.counts[name] = (before + int(there.sum())) % int(rules.every[column])
    for window_ns in np.unique(rules.window_ns[rules.window_ns > 0]).tolist():
        chosen = np.flatnonzero(rules.window_ns == window_ns)
        kept[:, chosen] = _extremes(values[:, chosen], valid[:, chosen], times_ns // window_ns)
    follows = is_axis & ((rules.every > 0) | (rules.window_ns > 0))
    if follows.any() and not is_axis.all():
        something: Mask = np.logical_or.reduce(kept[:, ~is_axis], axis=1)
        kept[:, follows] = valid[:, follows] & something[:, None]
    return kept


def _extremes(values: NDArray[np.float64], valid: Mask, windows: NDArray[np.int64]) -> Mask:
    """Mask, for each window, the first, last, least and greatest valid value, and the first NaN."""
    kept = np.zeros_like(valid)
    windows = np.maximum.accumulate(windows)
    edges = [0, *(np.flatnonzero(np.diff(windows)) + 1).tolist(), len(windows)]
    every_column = np.arange(values.shape[1])
    for start, stop in pairwise(edges):
        there, part = valid[start:stop], values[start:stop]
        nan = np.isnan(part)
        ordered = there & ~nan
        for row in (
            there.argmax(axis=0),
            stop - start - 1 - there[::-1].argmax(axis=0),
            np.where(ordered, part, np.inf).argmin(axis=0),
            np.where(ordered, part, -np.inf).argmax(axis=0),
            (there & nan).argmax(axis=0),
        ):
            kept[start + row, every_column] = True
    return kept & valid


def _valid(block: RecordBlock) -> Mask:
    return np.ones(block.values.shape, np.bool_) if block.valid is None else block.valid


def _masked(block: RecordBlock, mask: Mask) -> RecordBlock:
    """Return the block with the values of ``mask`` alone, without rows and columns that are then empty."""
    rows: Mask = np.logical_or.reduce(mask, axis=1)
    rows[[cell.row for cell in block.texts]] = True
    columns: Mask = np.logical_or.reduce(mask, axis=0)
    here = mask[rows][:, columns]
    place = np.cumsum(rows) - 1
    return RecordBlock(
        block.first_ordinal,
        block.attempt,
        tuple(name for name, stays in zip(block.columns, columns.tolist(), strict=True) if stays),
        block.steps[rows],
        block.times_ns[rows],
        block.values[rows][:, columns],
        None if here.all() else here,
        tuple(TextCell(int(place[cell.row]), cell.column, cell.value) for cell in block.texts),
        None if block.kinds is None else block.kinds[rows][:, columns],
        _axes(block, rows, columns),
        _summaries(block, columns),
    )


def _axes(block: RecordBlock, rows: Mask, columns: Mask) -> tuple[AxisColumn, ...]:
    """Return the axes of the columns that stay."""
    place = (np.cumsum(columns) - 1).tolist()
    stay = columns.tolist()
    kept = ((axis, tuple(place[at] for at in axis.columns if stay[at])) for axis in block.axes)
    return tuple(
        AxisColumn(axis.name, at, axis.values[rows], axis.texts) for axis, at in kept if at or axis.texts
    )


def _summaries(block: RecordBlock, columns: Mask) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the summaries of the columns that stay."""
    place = (np.cumsum(columns) - 1).tolist()
    stay = columns.tolist()
    kept = ((kind, tuple(place[at] for at in among if stay[at])) for kind, among in block.summaries)
    return tuple((kind, at) for kind, at in kept if at)
