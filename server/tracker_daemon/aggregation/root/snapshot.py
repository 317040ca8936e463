"""The state of a root's fold as bytes, so that the events before it need not be replayed.

It holds only what the rules need: open rows, closed marks, reporters, occurrence counters, books. Plans are
a cache and are made anew. The format belongs to one version of the product: a snapshot with another
``FORMAT`` is refused, and only the version that wrote it can finish its journal.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.root.attempt import Extras, RootAttempt
from tracker_daemon.aggregation.root.fold import RootFold
from tracker_daemon.aggregation.root.panel import RootPanel
from tracker_daemon.aggregation.shared.plain_state import (
    RECORDING,
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

FORMAT = 1
_PER_SLOT = ("member_from", "ever_member")
_PER_METRIC = ("learned", "aggregated", "owner", "joined_at")
_PER_ROW = ("state", "missing", "opened_ns", "step", "occurrence", "serial", "time_ns")


def dump(fold: RootFold) -> bytes:
    """Encode the state of ``fold`` between two ticks."""
    return msgspec.msgpack.encode(
        {
            "format": FORMAT,
            "books": dump_books(fold.books),
            "next_ordinal": fold.emitter.next_ordinal,
            "streams": [
                [*dump_stream(stream, source), source.own_highs] for stream, source in fold.streams.items()
            ],
            "next_step": fold.steps.next_step,
            "first_step": fold.steps.first_step,
            "config": fold.config.plain(),
            "dropped_shown": fold.dropped_shown,
            "automatic_keys": dump_key_sets(fold.steps.key_sets),
            "attempt": _dump_attempt(fold.attempt),
            "older": [_dump_attempt(attempt) for attempt in fold.older.values()],
        }
    )


def load(payload: bytes, rules: Rules) -> RootFold:
    """Decode what :func:`dump` made.

    Raises:
        JournalError: it was made by another version of the product, or is of a fold that forwards.
    """
    plain = decode_state(payload, RECORDING, FORMAT)
    fold = RootFold(rules)
    fold.books = load_books(plain["books"])
    fold.emitter.next_ordinal = plain["next_ordinal"]
    fold.streams = load_streams(plain["streams"])
    fold.steps.next_step = by_rank(plain["next_step"])
    fold.steps.first_step = plain.get("first_step", 0)
    fold.dropped_shown = plain["dropped_shown"]
    if "config" in plain:  # an older version kept none
        fold.config.restore(plain["config"])
    fold.steps.key_sets = load_key_sets(plain["automatic_keys"])
    fold.attempt = _load_attempt(plain["attempt"], fold)
    fold.older = {older["number"]: _load_attempt(older, fold) for older in plain["older"]}
    return fold


def _dump_attempt(attempt: RootAttempt) -> Plain:
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
        "exited": members.exited,
        "vanished": sorted(members.vanished),
        "command_status": members.command_status,
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


def _load_attempt(plain: Plain, fold: RootFold) -> RootAttempt:
    attempt = RootAttempt(plain["number"], fold.rules, fold.books, fold.notices)
    attempt.fenced = plain["fenced"]
    members = attempt.membership
    members.world_size = plain["world_size"]
    members.seen = set(plain["seen"])
    members.gone = by_rank(plain["gone"])
    members.exit_codes = by_rank(plain["exit_codes"])
    members.flushed_ns = by_rank(plain["flushed_ns"])
    members.lost_ns = plain.get("lost_ns")
    members.exited = by_rank(plain.get("exited", {}))
    members.vanished = set(plain.get("vanished", ()))
    members.command_status = plain.get("command_status", 0)
    for stored in plain["panels"]:
        panel = _load_panel(stored)
        attempt.choose_statistics(panel)
        attempt.add_panel(panel)
    attempt.parts_at = {
        (step, occurrence): [(index, row) for index, row in parts]
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


def _dump_panel(panel: RootPanel) -> Plain:
    slots, rows = len(panel.ranks), panel.live_rows()
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
        **dump_occurrences(panel),
        "marks": [[*key, bits] for key, bits in panel.marks.bits.items()],
        "watermarks": panel.marks.watermarks,
    }


def _dump_accumulators(panel: RootPanel, rows: Integers) -> list[Any] | None:
    held = panel.accumulators
    if held is None:
        return None
    arrays = held.floats[:, rows], held.integers[:, rows], held.valued[rows, : len(panel.placed)]
    return [dump_array(array) for array in arrays]


def _load_panel(plain: Plain) -> RootPanel:
    panel = RootPanel(tuple(plain["names"]))
    load_slots(panel, plain)
    slots = len(panel.ranks)
    # In an older version every slot had a place.
    for slot in plain.get("placed", range(slots)):
        panel.place(slot)
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
    panel.row_of = dict(zip(panel.keys_at(rows), rows.tolist(), strict=True))
    panel.marks.bits = {(step, occurrence): bits for step, occurrence, bits in plain["marks"]}
    panel.marks.watermarks = by_rank(plain["watermarks"])
    return panel


def _load_accumulators(panel: RootPanel, rows: Integers, plain: list[Any] | None) -> None:
    if plain is None:
        return
    floats, integers, valued = map(load_array, plain)
    held = panel.accumulate()
    held.floats[:, rows], held.integers[:, rows] = floats, integers
    held.valued[rows, : len(panel.placed)] = valued
