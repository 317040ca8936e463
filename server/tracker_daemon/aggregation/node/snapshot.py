"""The state of a node's fold as bytes, so that the events before it need not be replayed.

It holds only what the rules need. Rows have no indices here: a loaded panel numbers its rows anew, and
nothing depends on that.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from tracker_daemon.aggregation.node.attempt import NodeAttempt
from tracker_daemon.aggregation.node.dictionary import NodeDictionary
from tracker_daemon.aggregation.node.fold import NodeFold
from tracker_daemon.aggregation.node.panel import NodePanel
from tracker_daemon.aggregation.node.progress import RankProgress
from tracker_daemon.aggregation.node.rank_parts import Fragment, RankParts
from tracker_daemon.aggregation.node.steps import NodeSteps, UnsentSteps
from tracker_daemon.aggregation.shared.plain_state import (
    FORWARDING,
    Plain,
    by_rank,
    decode_state,
    dump_array,
    dump_books,
    dump_key_sets,
    dump_occurrences,
    dump_stream,
    load_array,
    load_books,
    load_key_sets,
    load_slots,
    load_streams,
)
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.values.batch import DecodedBatch
from tracker_protocol.kinds import Kind

FORMAT = 2
_PER_ROW = ("step", "occurrence", "time_ns", "window", "bar", "reporter", "number")
_BY_SLOT = ("values", "seen")
Encoder = Callable[[DecodedBatch], bytes]
Decoder = Callable[[bytes], DecodedBatch]


def dump(fold: NodeFold, encode_batch: Encoder) -> bytes:
    """Encode the state of ``fold`` between two ticks; ``encode_batch`` gives the body of a fragment."""
    return msgspec.msgpack.encode(
        {
            "kind": FORWARDING,
            "format": FORMAT,
            "books": dump_books(fold.books),
            "streams": [dump_stream(stream, source) for stream, source in fold.streams.items()],
            "names": fold.names.names,
            "awaited_names": sorted(fold.names.awaited),
            "parts": _dump_parts(fold.parts, encode_batch),
            "steps": _dump_steps(fold.steps),
            "window": fold.window,
            "untold": fold.unsent_notices,
            "gap_points_told": fold.gap_points_sent,
            "wants_flushes": fold.wants_flushes,
            "ended": fold.outcome,
            "attempt": _dump_attempt(fold.attempt),
            "older": [_dump_attempt(attempt) for attempt in fold.older.values()],
        }
    )


def load(payload: bytes, rules: Rules, decode_batch: Decoder) -> NodeFold:
    """Decode the bytes of :func:`dump`; ``decode_batch`` is the inverse of its ``encode_batch``.

    Raises:
        JournalError: it was made by another version of the product, or is of another kind of fold.
    """
    plain = decode_state(payload, FORWARDING, FORMAT)
    fold = NodeFold(rules, load_books(plain["books"]))
    fold.streams = load_streams(plain["streams"])
    fold.names = NodeDictionary(plain["names"], plain["awaited_names"])
    fold.parts = _load_parts(plain["parts"], decode_batch)
    fold.steps = _load_steps(plain["steps"])
    fold.window = plain["window"]
    fold.unsent_notices = plain["untold"]
    fold.gap_points_sent = plain["gap_points_told"]
    fold.wants_flushes = plain["wants_flushes"]
    fold.outcome = tuple(plain["ended"]) if plain["ended"] is not None else None
    fold.attempt = _load_attempt(plain["attempt"], fold)
    fold.older = {older["number"]: _load_attempt(older, fold) for older in plain["older"]}
    return fold


# ---- parts and steps -----------------------------------------------------------------------------


def _dump_parts(parts: RankParts, encode_batch: Encoder) -> Plain:
    return {
        "fragments": [
            [fragment.stream, encode_batch(fragment.batch), fragment.batch.points]
            for fragment in parts.fragments
        ],
        "ends": [[stream, encode_batch(end)] for stream, end in parts.ends],
        "with_rows": sorted(parts.with_rows),
        "flushed": sorted(parts.flushed),
    }


def _load_parts(plain: Plain, decode_batch: Decoder) -> RankParts:
    parts = RankParts()
    for stream, body, _ in plain["fragments"]:
        parts.add(Fragment(stream, decode_batch(body)))
    parts.ends = [(stream, decode_batch(end)) for stream, end in plain["ends"]]
    parts.with_rows, parts.flushed = set(plain["with_rows"]), set(plain["flushed"])
    return parts


def _dump_steps(steps: NodeSteps) -> Plain:
    return {
        "next_step": steps.next_step,
        "first_step": steps.first_step,
        "keys": dump_key_sets(steps.key_sets),
        "untold": [[unsent.rank, unsent.names, unsent.steps] for unsent in steps.unsent],
    }


def _load_steps(plain: Plain) -> NodeSteps:
    steps = NodeSteps()
    steps.next_step = by_rank(plain["next_step"])
    steps.first_step = plain["first_step"]
    steps.key_sets = load_key_sets(plain["keys"])
    steps.unsent = [UnsentSteps(rank, tuple(names), at) for rank, names, at in plain["untold"]]
    return steps


# ---- attempts ------------------------------------------------------------------------------------


def _dump_attempt(attempt: NodeAttempt) -> Plain:
    progress = attempt.progress
    return {
        "number": attempt.number,
        "world_size": attempt.world_size,
        "live": sorted(attempt.live),
        "exit_codes": attempt.exit_codes,
        "exiting": attempt.exiting,
        "last_step": progress.last_step,
        "high": progress.high,
        "forwarded_high": progress.forwarded_high,
        "logged_in": progress.logged_in,
        "changed": sorted(progress.changed),
        "idle": sorted(progress.idle),
        "flushes": progress.flushes,
        "panels": [_dump_panel(panel) for panel in attempt.panels],
    }


def _load_attempt(plain: Plain, fold: NodeFold) -> NodeAttempt:
    attempt = fold.new_attempt(plain["number"])
    attempt.world_size = plain["world_size"]
    attempt.live = set(plain["live"])
    attempt.exit_codes = by_rank(plain["exit_codes"])
    attempt.exiting = by_rank(plain.get("exiting", {}))
    attempt.progress = _load_progress(plain)
    for panel in plain["panels"]:
        attempt.add_panel(_load_panel(panel))
    return attempt


def _load_progress(plain: Plain) -> RankProgress:
    progress = RankProgress()
    progress.last_step = by_rank(plain["last_step"])
    progress.high = by_rank(plain["high"])
    progress.forwarded_high = by_rank(plain["forwarded_high"])
    progress.logged_in = by_rank(plain["logged_in"])
    progress.changed = set(plain["changed"])
    progress.idle = set(plain["idle"])
    progress.flushes = by_rank(plain["flushes"])
    return progress


def _dump_panel(panel: NodePanel) -> Plain:
    slots, rows = len(panel.ranks), panel.live_rows()
    plain: Plain = {name: dump_array(getattr(panel, name)[rows]) for name in _PER_ROW}
    # An unseen cell may have an old value, which must not differ after a replay.
    seen = panel.seen[rows, :slots]
    plain["values"] = dump_array(np.where(seen, panel.values[rows, :slots], 0.0))
    plain["seen"] = dump_array(seen)
    plain["kinds"] = None
    if panel.kinds is not None:
        plain["kinds"] = dump_array(np.where(seen, panel.kinds[rows, :slots], Kind.FLOAT))
    return {
        **plain,
        "names": panel.names,
        "ranks": panel.ranks,
        "ever": dump_array(panel.ever[:slots]),
        "sole": dump_array(panel.sole),
        **dump_occurrences(panel),
    }


def _load_panel(plain: Plain) -> NodePanel:
    panel = NodePanel(tuple(plain["names"]))
    load_slots(panel, plain)
    slots = len(panel.ranks)
    arrays = {name: load_array(plain[name]) for name in (*_PER_ROW, *_BY_SLOT)}
    keys = list(zip(arrays["step"].tolist(), arrays["occurrence"].tolist(), strict=True))
    if keys:
        panel.open_rows(keys, arrays["time_ns"], arrays["window"])
    rows = panel.live_rows()
    for name in _BY_SLOT:
        getattr(panel, name)[rows, :slots] = arrays[name]
    for name in ("bar", "reporter", "number"):
        getattr(panel, name)[rows] = arrays[name]
    if plain["kinds"] is not None:
        panel.kinds = np.zeros(panel.values.shape, np.uint8)
        panel.kinds[rows, :slots] = load_array(plain["kinds"])
    panel.points = int(np.count_nonzero(arrays["seen"]))
    panel.ever[:slots] = load_array(plain["ever"])
    panel.sole = load_array(plain["sole"])
    return panel
