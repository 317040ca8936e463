"""A run's fold between processes: saved as a snapshot, and restored from it and the later events.

The run's notices are saved beside the fold: a loss, say, is still shown after the next restart.
"""

from __future__ import annotations

import msgspec

from tracker_daemon.aggregation.node import snapshot as node_snapshot
from tracker_daemon.aggregation.node.fold import NodeFold
from tracker_daemon.aggregation.root import snapshot
from tracker_daemon.aggregation.root.fold import RootFold
from tracker_daemon.aggregation.shared.fold import Fold, TickOutput
from tracker_daemon.journal.store import Journal
from tracker_daemon.recording import events
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.wire.batches import decode_journalled, encode_batch

_NOTICES_KEPT = 200
_SLICE_BYTES = 16 * 1024 * 1024


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    fold: bytes
    notices: list[tuple[int, str]]


def save(journal: Journal, run: LiveRun, fold: Fold, position: int) -> None:
    """Journal a snapshot of ``fold``, to which the run's events up to ``position`` were applied."""
    saved = _Saved(_dump(fold), run.notices)
    journal.put_snapshot(run.row_id, position, msgspec.msgpack.encode(saved))


def restore(journal: Journal, run: LiveRun) -> tuple[Fold, int]:
    """Return the fold after the run's last tick, and that tick's time in ns (0: none was replayed)."""
    stored = journal.snapshot(run.row_id)
    position, run.notices = 0, []
    fold: Fold = NodeFold(run.rules) if run.forwards else RootFold(run.rules)
    if stored is not None:
        position = stored[0]
        saved = msgspec.msgpack.decode(stored[1], type=_Saved)
        fold, run.notices = _load(saved.fold, run), saved.notices
    tick, time_ns = 0, 0
    while batch := journal.events_after(run.row_id, position, limit_bytes=_SLICE_BYTES):
        for event in batch:
            if event.tick != tick and tick:
                keep_notices(run, fold.settle(time_ns), time_ns)
            tick, time_ns = event.tick, event.time_ns
            events.apply(fold, event.kind, event.stream, event.payload, time_ns)
        position = batch[-1].position
    if tick:
        keep_notices(run, fold.settle(time_ns), time_ns)
    return fold, time_ns


def _load(payload: bytes, run: LiveRun) -> Fold:
    if run.forwards:
        return node_snapshot.load(payload, run.rules, decode_journalled)
    return snapshot.load(payload, run.rules)


def _dump(fold: Fold) -> bytes:
    if isinstance(fold, NodeFold):
        return node_snapshot.dump(fold, encode_batch)
    assert isinstance(fold, RootFold), "there are two kinds of folds"
    return snapshot.dump(fold)


def keep_notices(run: LiveRun, settled: TickOutput, time_ns: int) -> None:
    """Keep the notices of a tick."""
    run.notices.extend((time_ns, text) for text in settled.notices)
    del run.notices[:-_NOTICES_KEPT]
