"""A fold's state as bytes, so that the events before it need not be replayed.

Only what the rules need goes in: open rows, closed marks, reporters, occurrence counters, books.
Plans are a cache and are made anew. The format belongs to one version of the product: a snapshot
with another ``FORMAT`` is refused, and the journal that holds it must be finished by its own.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.root.attempt import Attempt, Extras
from tracker_daemon.aggregation.root.fold import RunFold
from tracker_daemon.aggregation.root.panel import Panel
from tracker_daemon.aggregation.shared.plain_state import (
    RECORDING,
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
_PER_SLOT = ("member_from", "ever_member")
_PER_METRIC = ("learned", "aggregated", "owner", "joined_at")
_PER_ROW = ("state", "missing", "opened_ns", "step", "occurrence", "serial", "time_ns")


def dump(fold: RunFold) -> bytes:
    """Encode the state of ``fold`` between two ticks."""
    return msgspec.msgpack.encode(
        {
            "format": FORMAT,
            "books": dump_books(fold.books),
            "next_ordinal": fold.emitter.next_ordinal,
            "streams": [
                [stream, s.rank, s.attempt, s.names, s.dropped_points, s.own_highs]
                for stream, s in fold.streams.items()
            ],
            "next_step": fold.next_step,
            "first_step": fold.first_step,
            "config": fold.config.plain(),
            "dropped_shown": fold.dropped_shown,
            "automatic_keys": [[step, sorted(keys)] for step, keys in fold.automatic_keys.items()],
            "attempt": _dump_attempt(fold.attempt),
            "older": [_dump_attempt(attempt) for attempt in fold.older.values()],
        }
    )


def load(payload: bytes, rules: Rules) -> RunFold:
    """Decode what :func:`dump` made.

    Raises:
        JournalError: it was made by another version of the product, or is of a fold that forwards.
    """
    plain = decode_state(payload, RECORDING, FORMAT)
    fold = RunFold(rules)
    fold.books = load_books(plain["books"])
    fold.emitter.next_ordinal = plain["next_ordinal"]
    for stream, rank, attempt, names, dropped, highs in plain["streams"]:
        fold.streams[stream] = StreamFold(rank, attempt, names, dropped, highs)
    fold.next_step = {int(rank): step for rank, step in plain["next_step"].items()}
    fold.first_step = plain.get("first_step", 0)
    fold.dropped_shown = plain["dropped_shown"]
    if "config" in plain:  # an older version kept none
        fold.config.restore(plain["config"])
    fold.automatic_keys = OrderedDict((step, frozenset(keys)) for step, keys in plain["automatic_keys"])
    fold.attempt = _load_attempt(plain["attempt"], fold)
    fold.older = {older["number"]: _load_attempt(older, fold) for older in plain["older"]}
    return fold


def _dump_attempt(attempt: Attempt) -> Plain:
    members = attempt.membership
    return {
        "number": attempt.number,
        "fenced": attempt.fenced,
        "world_size": members.world_size,
        "seen": sorted(members.seen),
        "gone": members.gone,
        "exit_codes": members.exit_codes,
        "flushed_ns": members.flushed_ns,
        "lost_ns": members.lost_ns,
        "panels": [_dump_panel(panel) for panel in attempt.panels],
        "parts_at": [[*key, parts] for key, parts in attempt.parts_at.items()],
        "extras": [[*key, e.texts, e.numbers, e.time_ns] for key, e in attempt.extras.items()],
        "serial": attempt.serial,
        "newest": attempt.newest,
        "missed": attempt.missed,
        "lagging": sorted(attempt.lagging),
        "recent": list(attempt.recent),
        "last_step": attempt.last_step,
        "next_timeout_ns": attempt.next_timeout_ns,
        "settled_ns": attempt.settled_ns,
    }


def _load_attempt(plain: Plain, fold: RunFold) -> Attempt:
    attempt = Attempt(plain["number"], fold.rules, fold.books, fold.notices)
    attempt.fenced = plain["fenced"]
    members = attempt.membership
    members.world_size = plain["world_size"]
    members.seen = set(plain["seen"])
    members.gone = by_rank(plain["gone"])
    members.exit_codes = by_rank(plain["exit_codes"])
    members.flushed_ns = by_rank(plain["flushed_ns"])
    members.lost_ns = plain.get("lost_ns")
    attempt.panels = [_load_panel(panel) for panel in plain["panels"]]
    for panel in attempt.panels:
        attempt.choose_statistics(panel)
    attempt.place_of = {
        name: (index, column)
        for index, panel in enumerate(attempt.panels)
        for column, name in enumerate(panel.names)
    }
    attempt.parts_at = {
        (step, occurrence): [(panel, row) for panel, row in parts]
        for step, occurrence, parts in plain["parts_at"]
    }
    attempt.extras = {
        (step, occurrence): Extras(texts, numbers, time_ns)
        for step, occurrence, texts, numbers, time_ns in plain["extras"]
    }
    attempt.serial = plain["serial"]
    attempt.newest = by_rank(plain["newest"])
    attempt.missed = by_rank(plain["missed"])
    members.lagging = set(plain["lagging"])
    attempt.recent = deque((tuple(key) for key in plain["recent"]), maxlen=attempt.recent.maxlen)
    attempt.last_step = by_rank(plain["last_step"])
    attempt.next_timeout_ns = plain["next_timeout_ns"]
    attempt.settled_ns = plain["settled_ns"]
    return attempt


def _dump_panel(panel: Panel) -> Plain:
    slots, rows = len(panel.ranks), panel.live_rows()
    counters = panel.occurrences
    plain: Plain = {name: dump_array(getattr(panel, name)[:slots]) for name in _PER_SLOT}
    plain.update({name: dump_array(getattr(panel, name)) for name in _PER_METRIC})
    plain.update({name: dump_array(getattr(panel, name)[rows]) for name in _PER_ROW})
    return {
        **plain,
        "values": dump_array(panel.values[rows, : len(panel.placed)]),
        "placed": panel.placed,
        "seen": dump_array(panel.seen[rows, :slots]),
        "accumulators": _dump_accumulators(panel, rows),
        "names": panel.names,
        "ranks": panel.ranks,
        "rows": dump_array(rows),
        "first_row": dump_array(panel.first_row),
        "highs": dump_array(counters.first[:slots]),
        "repeats": [[slot, dump_array(highs)] for slot, highs in counters.repeats.items()],
        "marks": [[*key, bits] for key, bits in panel.marks.bits.items()],
        "watermarks": panel.marks.watermarks,
    }


def _dump_accumulators(panel: Panel, rows: NDArray[np.int64]) -> list[Any] | None:
    held = panel.accumulators
    if held is None:
        return None
    arrays = held.floats[:, rows], held.integers[:, rows], held.valued[rows, : len(panel.placed)]
    return [dump_array(array) for array in arrays]


def _load_panel(plain: Plain) -> Panel:
    panel = Panel(tuple(plain["names"]))
    for rank in plain["ranks"]:
        panel.slot(rank)
    slots = len(panel.ranks)
    # In an older version every slot had a place.
    for slot in plain.get("placed", range(slots)):
        panel.make_place(slot)
    rows = load_array(plain["rows"])
    # Rows keep their indices: attempts refer to them.
    while len(panel.state) <= rows.max(initial=0):
        panel.grow_rows()
    panel.free = sorted(set(range(len(panel.state))) - set(rows.tolist()), reverse=True)
    for name in _PER_SLOT:
        getattr(panel, name)[:slots] = load_array(plain[name])
    for name in (*_PER_METRIC, "first_row"):
        getattr(panel, name)[:] = load_array(plain[name])
    for name in _PER_ROW:
        getattr(panel, name)[rows] = load_array(plain[name])
    panel.values[rows, : len(panel.placed)] = load_array(plain["values"])
    panel.seen[rows, :slots] = load_array(plain["seen"])
    _load_accumulators(panel, rows, plain.get("accumulators"))
    keys = zip(panel.step[rows].tolist(), panel.occurrence[rows].tolist(), strict=True)
    panel.row_of = dict(zip(keys, rows.tolist(), strict=True))
    panel.occurrences.first[:slots] = load_array(plain["highs"])
    panel.occurrences.repeats = {slot: load_array(highs) for slot, highs in plain["repeats"]}
    panel.marks.bits = {(step, occurrence): bits for step, occurrence, bits in plain["marks"]}
    panel.marks.watermarks = by_rank(plain["watermarks"])
    return panel


def _load_accumulators(panel: Panel, rows: NDArray[np.int64], plain: list[Any] | None) -> None:
    if plain is None:
        return
    floats, integers, valued = map(load_array, plain)
    held = panel.accumulate()
    held.floats[:, rows], held.integers[:, rows] = floats, integers
    held.valued[rows, : len(panel.placed)] = valued
