"""The changes that entries make to a W&B run: decoded, before any of them is logged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tracker_daemon.aggregation.shared.histograms import HistogramRow
from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.decoding import RunEnd, read_block, read_config, read_end, read_histograms
from tracker_daemon.backends.wandb.items import NumberedItem
from tracker_daemon.backends.wandb.rows import NO_STEP, histogram_row
from tracker_daemon.errors import PoisonEntry
from tracker_daemon.outbox.entries import CONFIGS, EntryKind, OutboxEntry

Change = RecordBlock | HistogramRow | dict[str, Any] | RunEnd | NumberedItem
"""A dict is a configuration."""


def changes_of(entries: Sequence[OutboxEntry], contents: Path) -> Iterator[Change]:
    """Yield the changes of ``entries``; ``contents`` is the directory of the content store.

    Raises:
        PoisonEntry: an entry cannot be decoded, or lacks a content.
    """
    for entry in entries:
        if entry.kind is EntryKind.FILES:
            yield NumberedItem.of(entry, contents)
        elif entry.kind is EntryKind.RECORDS:
            yield read_block(entry)
        elif entry.kind is EntryKind.HISTOGRAMS:
            yield _read_checked_histograms(entry)
        elif entry.kind in CONFIGS:
            yield read_config(entry)
        elif entry.kind is EntryKind.END:
            yield read_end(entry)


def _read_checked_histograms(entry: OutboxEntry) -> HistogramRow:
    histograms = read_histograms(entry)
    try:
        histogram_row(histograms, NO_STEP)
    except ValueError as error:
        raise PoisonEntry(f"outbox entry {entry.number} holds no histograms: {error}") from error
    return histograms
