"""The output of a tick, as entries of the run's outbox."""

from __future__ import annotations

from itertools import filterfalse

import msgspec

from tracker_daemon.aggregation.shared.fold import TickOutput
from tracker_daemon.aggregation.shared.histograms import histogram_rows, is_histogram
from tracker_daemon.journal.store import Journal
from tracker_daemon.outbox.entries import EntryKind
from tracker_daemon.wire.node_batches import encode_forwarded


def write_outbox(journal: Journal, run: int, settled: TickOutput) -> tuple[int, int]:
    """Append the entries in order of emission.

    Returns the numbers of the last entry and of the last that has contents; 0 if there is none.
    """
    number = files = 0
    for at, document in enumerate(settled.configs):
        kind = EntryKind.LATER_CONFIG if at in settled.later_configs else EntryKind.CONFIG
        number = journal.put_outbox(run, kind, document.encode(), 0)
    if settled.config_changes:
        changes = msgspec.json.encode(settled.config_changes)
        number = journal.put_outbox(run, EntryKind.CONFIG_CHANGES, changes, 0)
    for block in settled.blocks:
        number = journal.put_outbox(run, EntryKind.RECORDS, block.to_bytes(), len(block))
    for row in histogram_rows(settled.items):
        number = journal.put_outbox(run, EntryKind.HISTOGRAMS, row.to_bytes(), 0)
    for item in filterfalse(is_histogram, settled.items):
        kind = EntryKind.FILES if item.contents else EntryKind.ITEM
        number = journal.put_outbox(run, kind, item.to_bytes(), 0)
        if item.contents:
            files = number
            journal.content_uses.add(run, number, {content.sha256 for content in item.contents})
    for batch in () if settled.forwarded is None else encode_forwarded(settled.forwarded):
        kind = EntryKind.FILES if batch.contents else EntryKind.FORWARDED
        number = journal.put_outbox(run, kind, batch.body, int(kind is EntryKind.FORWARDED))
        if batch.contents:
            files = number
            journal.content_uses.add(run, number, set(batch.contents))
    return number, files
