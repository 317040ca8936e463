"""The state of a fold that forwards as bytes, so that the events before it need not be replayed.

As with :mod:`snapshot`, only what the rules need goes in. Rows have no indices here: a panel that is
loaded numbers its rows anew, and nothing depends on that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec
import numpy as np

from tracker_daemon.aggregation.node.dictionary import NodeDictionary
from tracker_daemon.aggregation.node.fold import NodeFold
from tracker_daemon.aggregation.node.gathering import Gathering, NodePanel
from tracker_daemon.aggregation.node.progress import RankProgress
from tracker_daemon.aggregation.node.rank_parts import Fragment, RankParts
from tracker_daemon.aggregation.node.steps import NodeSteps, UnsentSteps
from tracker_daemon.aggregation.shared.batch import DecodedBatch
from tracker_daemon.aggregation.shared.plain_state import (
    FORWARDING,
    Plain,
    by_rank,
    decode_state,
    dump_array,
    dump_books,
    load_array,
    load_books,
)
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.shared.stream import StreamFold

FORMAT = 1
_PER_ROW = ("step", "occurrence", "time_ns", "window")
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
            "streams": [
                [stream, s.rank, s.attempt, s.names, s.dropped_points] for stream, s in fold.streams.items()
            ],
            "names": fold.names.names,
            "awaited_names": sorted(fold.names.awaited),
            "parts": _dump_parts(fold.parts, encode_batch),
            "steps": _dump_steps(fold.steps),
            "window": fold.window,
            "untold": fold.untold,
            "gap_points_told": fold.gap_points_told,
            "wants_flushes": fold.wants_flushes,
            "ended": fold.ended,
            "attempt": _dump_gathering(fold.gathering),
            "older": [_dump_gathering(gathering) for gathering in fold.older.values()],
        }
    )


def load(payload: bytes, rules: Rules, decode_batch: Decoder) -> NodeFold:
    """Decode the bytes of :func:`dump`; ``decode_batch`` is the inverse of its ``encode_batch``.

    Raises:
        JournalError: it was made by another version of the product, or is of another kind of fold.
    """
    plain = decode_state(payload, FORWARDING, FORMAT)
    fold = NodeFold(rules)
    fold.books = load_books(plain["books"])
    for stream, rank, attempt, names, dropped in plain["streams"]:
        fold.streams[stream] = StreamFold(rank, attempt, names, dropped)
    fold.names = NodeDictionary(plain["names"], plain["awaited_names"])
    fold.parts = _load_parts(plain["parts"], decode_batch)
    fold.steps = _load_steps(plain["steps"])
    fold.window = plain["window"]
    fold.untold = plain["untold"]
    fold.gap_points_told = plain["gap_points_told"]
    fold.wants_flushes = plain["wants_flushes"]
    fold.ended = tuple(plain["ended"]) if plain["ended"] is not None else None
    fold.gathering = _load_gathering(plain["attempt"], fold)
    fold.older = {older["number"]: _load_gathering(older, fold) for older in plain["older"]}
    return fold


# ---- parts and steps -----------------------------------------------------------------------------


def _dump_parts(parts: RankParts, encode_batch: Encoder) -> Plain:
    return {
        "fragments": [
            [fragment.stream, encode_batch(fragment.batch), fragment.batch.points]
            for fragment in parts.fragments
        ],
        "ends": parts.ends,
    }


def _load_parts(plain: Plain, decode_batch: Decoder) -> RankParts:
    parts = RankParts()
    for stream, body, _ in plain["fragments"]:
        parts.add(Fragment(stream, decode_batch(body)))
    parts.ends = [(stream, code) for stream, code in plain["ends"]]
    return parts


def _dump_steps(steps: NodeSteps) -> Plain:
    return {
        "next_step": steps.next_step,
        "first_step": steps.first_step,
        "keys": [[step, sorted(keys)] for step, keys in steps.keys.items()],
        "untold": [[untold.rank, untold.names, untold.steps] for untold in steps.untold],
    }


def _load_steps(plain: Plain) -> NodeSteps:
    steps = NodeSteps()
    steps.next_step = by_rank(plain["next_step"])
    steps.first_step = plain["first_step"]
    steps.keys = OrderedDict((step, frozenset(keys)) for step, keys in plain["keys"])
    steps.untold = [UnsentSteps(rank, tuple(names), at) for rank, names, at in plain["untold"]]
    return steps


# ---- attempts ------------------------------------------------------------------------------------


def _dump_gathering(gathering: Gathering) -> Plain:
    progress = gathering.progress
    return {
        "number": gathering.number,
        "world_size": gathering.world_size,
        "live": sorted(gathering.live),
        "exit_codes": gathering.exit_codes,
        "last_step": progress.last_step,
        "logged_in": progress.logged_in,
        "changed": sorted(progress.changed),
        "idle": sorted(progress.idle),
        "flushes": progress.flushes,
        "panels": [_dump_panel(panel) for panel in gathering.panels],
    }


def _load_gathering(plain: Plain, fold: NodeFold) -> Gathering:
    gathering = fold.new_gathering(plain["number"])
    gathering.world_size = plain["world_size"]
    gathering.live = set(plain["live"])
    gathering.exit_codes = by_rank(plain["exit_codes"])
    gathering.progress = _load_progress(plain)
    for panel in plain["panels"]:
        gathering.add_panel(_load_panel(panel))
    return gathering


def _load_progress(plain: Plain) -> RankProgress:
    progress = RankProgress()
    progress.last_step = by_rank(plain["last_step"])
    progress.logged_in = by_rank(plain["logged_in"])
    progress.changed = set(plain["changed"])
    progress.idle = set(plain["idle"])
    progress.flushes = by_rank(plain["flushes"])
    return progress


def _dump_panel(panel: NodePanel) -> Plain:
    slots, rows = len(panel.ranks), panel.live_rows()
    plain: Plain = {name: dump_array(getattr(panel, name)[rows]) for name in _PER_ROW}
    # What a row held before is in no cell of it that was not seen.
    seen = panel.seen[rows, :slots]
    plain["values"] = dump_array(np.where(seen, panel.values[rows, :slots], 0.0))
    plain["seen"] = dump_array(seen)
    counters = panel.occurrences
    return {
        **plain,
        "names": panel.names,
        "ranks": panel.ranks,
        "ever": dump_array(panel.ever[:slots]),
        "sole": dump_array(panel.sole),
        "highs": dump_array(counters.first[:slots]),
        "repeats": [[slot, dump_array(highs)] for slot, highs in counters.repeats.items()],
    }


def _load_panel(plain: Plain) -> NodePanel:
    panel = NodePanel(tuple(plain["names"]))
    for rank in plain["ranks"]:
        panel.slot(rank)
    slots = len(panel.ranks)
    arrays = {name: load_array(plain[name]) for name in (*_PER_ROW, *_BY_SLOT)}
    keys = zip(arrays["step"].tolist(), arrays["occurrence"].tolist(), strict=True)
    windows = zip(arrays["time_ns"].tolist(), arrays["window"].tolist(), strict=True)
    for key, (time_ns, window) in zip(keys, windows, strict=True):
        panel.open_row(key, time_ns, window)
    rows = panel.live_rows()
    for name in _BY_SLOT:
        getattr(panel, name)[rows, :slots] = arrays[name]
    panel.points = int(np.count_nonzero(arrays["seen"]))
    panel.ever[:slots] = load_array(plain["ever"])
    panel.sole = load_array(plain["sole"])
    panel.occurrences.first[:slots] = load_array(plain["highs"])
    panel.occurrences.repeats = {slot: load_array(highs) for slot, highs in plain["repeats"]}
    return panel
