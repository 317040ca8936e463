"""The state of a root's fold as bytes, so that the events before it need not be replayed.

It holds only what the rules need: open rows, closed marks, reporters, occurrence counters, books. Plans are
a cache and are made anew. The format belongs to one version of the product: a snapshot with another
``FORMAT`` is refused, and only the version that wrote it can finish its journal.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec
import numpy as np

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.root.attempt import RootAttempt
from tracker_daemon.aggregation.root.fold import RootFold
from tracker_daemon.aggregation.root.panel.contributions import RootPanel
from tracker_daemon.aggregation.root.rows import HomeRow, Part, RowQueue, UnplacedValue
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
from tracker_daemon.aggregation.values.contribution import NO_STEP
from tracker_daemon.aggregation.values.record import RecordTimes

FORMAT = 5
_PER_SLOT = ("member_from", "ever_member", "skips", "reported_to", "passed_to")
_PER_METRIC = ("learned", "aggregated", "owner", "joined_at")
_PER_ROW = (
    "state", "missing", "opened_ns", "bar", "home", "home_row", "own_out", "step", "occurrence", "serial",
    "time_ns",
)  # fmt: skip


def dump(fold: RootFold) -> bytes:
    """Encode the state of ``fold`` between two ticks."""
    return msgspec.msgpack.encode(
        {
            "format": FORMAT,
            "books": dump_books(fold.books),
            "next_ordinal": fold.emitter.next_ordinal,
            "record_times": [list(fold.emitter.times.last_ms.items()), fold.emitter.times.forgotten_ms],
            "definitions": list(fold.definitions.known.values()),
            "axis_of": fold.emitter.axes.axis_of,
            "on_step": sorted(fold.emitter.axes.on_step),
            "others_on_step": fold.emitter.axes.others_on_step,
            "others_recorded": fold.others_recorded,
            "kept_names": sorted(fold.naming.kept),
            "moved_names": sorted(fold.naming.moved),
            "streams": [dump_stream(stream, source) for stream, source in fold.streams.items()],
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
    fold = RootFold(rules, load_books(plain["books"]))
    fold.emitter.next_ordinal = plain["next_ordinal"]
    fold.emitter.times = RecordTimes(map(tuple, plain["record_times"][0]), plain["record_times"][1])
    fold.definitions.restore(plain["definitions"])
    fold.emitter.axes.axis_of = plain["axis_of"]
    fold.emitter.axes.on_step = set(plain["on_step"])
    fold.emitter.axes.others_on_step = plain["others_on_step"]
    fold.others_recorded = plain["others_recorded"]
    fold.naming.kept, fold.naming.moved = set(plain["kept_names"]), set(plain["moved_names"])
    fold.streams = load_streams(plain["streams"])
    fold.steps.next_step = by_rank(plain["next_step"])
    fold.steps.first_step = plain["first_step"]
    fold.dropped_shown = plain["dropped_shown"]
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
        "progress": {name: dump_array(array) for name, array in attempt.progress.plain().items()},
        "first_hello_ns": attempt.first_hello_ns,
        "lost_ns": members.lost_ns,
        "exited": members.exited,
        "vanished": sorted(members.vanished),
        "command_status": members.command_status,
        "panels": [_dump_panel(panel) for panel in attempt.panels],
        "queues": {rank: _dump_queue(queue) for rank, queue in attempt.queues.items()},
        "sole_owners": sorted(attempt.sole_owners),
        "unplaced": attempt.unplaced,
        "serial": attempt.serial,
        "missed": attempt.missed,
        "lagging": sorted(attempt.lagging),
        "recent": list(attempt.recent),
        "unvouched": sorted(attempt.unvouched),
        "next_timeout_ns": attempt.next_timeout_ns,
        "settled_ns": attempt.settled_ns,
    }


def _load_attempt(plain: Plain, fold: RootFold) -> RootAttempt:
    attempt = RootAttempt(plain["number"], fold.rules, fold.books, fold.notices, fold.naming)
    attempt.fenced = plain["fenced"]
    members = attempt.membership
    members.world_size = plain["world_size"]
    members.seen = set(plain["seen"])
    members.gone = by_rank(plain["gone"])
    members.exit_codes = by_rank(plain["exit_codes"])
    for name, array in plain["progress"].items():
        setattr(attempt.progress, name, load_array(array))
    attempt.first_hello_ns = plain["first_hello_ns"]
    members.lost_ns = plain["lost_ns"]
    members.exited = by_rank(plain["exited"])
    members.vanished = set(plain["vanished"])
    members.command_status = plain["command_status"]
    for stored in plain["panels"]:
        panel = _load_panel(stored)
        attempt.choose_statistics(panel)
        attempt.add_panel(panel)
    attempt.queues = {rank: _load_queue(queue) for rank, queue in by_rank(plain["queues"]).items()}
    attempt.sole_owners = set(plain["sole_owners"])
    attempt.unplaced = {
        name: [UnplacedValue(*value) for value in values] for name, values in plain["unplaced"].items()
    }
    attempt.serial = plain["serial"]
    attempt.missed = by_rank(plain["missed"])
    members.lagging = set(plain["lagging"])
    attempt.recent = deque((tuple(key) for key in plain["recent"]), maxlen=attempt.recent.maxlen)
    attempt.unvouched = {(step, occurrence) for step, occurrence in plain["unvouched"]}
    attempt.next_timeout_ns = plain["next_timeout_ns"]
    attempt.settled_ns = plain["settled_ns"]
    return attempt


def _dump_queue(queue: RowQueue) -> list[Any]:
    waiting, following = map(_dump_row, queue.waiting), map(_dump_row, queue.following)
    return [list(waiting), list(following), [(first, dict(axes)) for first, axes in queue.axes_from]]


def _dump_row(row: HomeRow) -> list[Any]:
    parts = [[*place, columns.tolist()] for *place, columns in row.parts]
    return [row.number, row.step, row.time_ns, row.last_ns, parts, row.numbers, row.texts, dict(row.axes)]


def _load_queue(plain: list[Any]) -> RowQueue:
    queue = RowQueue()
    waiting, following, axes_from = plain
    queue.axes_from.extend((first, axes) for first, axes in axes_from)
    for row in waiting:
        queue.restore(_load_row(row))
    queue.following = [_load_row(row) for row in following]
    return queue


def _load_row(plain: list[Any]) -> HomeRow:
    number, step, time_ns, last_ns, parts, numbers, texts, axes = plain
    loaded: list[Part] = [
        (panel, row, serial, np.array(columns, np.int64)) for panel, row, serial, columns in parts
    ]
    found = {name: (value, kind) for name, (value, kind) in numbers.items()}
    return HomeRow(number, step, time_ns, last_ns, loaded, found, texts, axes)


def _dump_panel(panel: RootPanel) -> Plain:
    slots, rows = len(panel.ranks), panel.live_rows()
    plain: Plain = {name: dump_array(getattr(panel, name)[:slots]) for name in _PER_SLOT}
    plain.update({name: dump_array(getattr(panel, name)) for name in _PER_METRIC})
    plain.update({name: dump_array(getattr(panel, name)[rows]) for name in _PER_ROW})
    return {
        **plain,
        "values": dump_array(panel.values[rows, : len(panel.placed)]),
        "kinds": None if panel.kinds is None else dump_array(panel.kinds[rows, : len(panel.placed)]),
        "shown": panel.shown,
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
    valued = held.valued[rows, : len(panel.placed)]
    arrays = held.floats[:, rows], held.integers[:, rows], valued, held.fractional[rows]
    return [dump_array(array) for array in arrays]


def _load_panel(plain: Plain) -> RootPanel:
    panel = RootPanel(tuple(plain["names"]))
    load_slots(panel, plain)
    slots = len(panel.ranks)
    for slot in plain["placed"]:
        panel.place(slot)
    rows = load_array(plain["rows"])
    # Rows keep their indices: attempts refer to them.
    while len(panel.state) <= rows.max(initial=0):
        panel.grow_rows()
    panel.free = sorted(set(range(len(panel.state))) - set(rows.tolist()), reverse=True)
    for name in _PER_SLOT:
        getattr(panel, name)[:slots] = load_array(plain[name])
    panel.last_pass = int(panel.passed_to.max(initial=NO_STEP))
    for name in (*_PER_METRIC, "first_row"):
        getattr(panel, name)[:] = load_array(plain[name])
    for name in _PER_ROW:
        getattr(panel, name)[rows] = load_array(plain[name])
    panel.values[rows, : len(panel.placed)] = load_array(plain["values"])
    if plain["kinds"] is not None:
        panel.kinds = np.zeros(panel.values.shape, np.uint8)
        panel.kinds[rows, : len(panel.placed)] = load_array(plain["kinds"])
    panel.shown = plain["shown"]
    panel.seen[rows, :slots] = load_array(plain["seen"])
    _load_accumulators(panel, rows, plain["accumulators"])
    panel.row_of = dict(zip(panel.keys_at(rows), rows.tolist(), strict=True))
    panel.in_use[rows] = True
    panel.marks.bits = {(step, occurrence): bits for step, occurrence, bits in plain["marks"]}
    panel.marks.watermarks = by_rank(plain["watermarks"])
    return panel


def _load_accumulators(panel: RootPanel, rows: Integers, plain: list[Any] | None) -> None:
    if plain is None:
        return
    floats, integers, valued, fractional = map(load_array, plain)
    held = panel.accumulate()
    held.floats[:, rows], held.integers[:, rows] = floats, integers
    held.valued[rows, : len(panel.placed)] = valued
    held.fractional[rows] = fractional
