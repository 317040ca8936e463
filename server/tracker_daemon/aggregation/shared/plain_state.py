"""Parts of a fold's state in plain types, as snapshots hold them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.shared.automatic_steps import KeySets
from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.shared.panel import Panel
from tracker_daemon.aggregation.shared.stream import StreamFold
from tracker_daemon.errors import JournalError

Plain = dict[str, Any]
RECORDING, FORWARDING = "recording", "forwarding"
"""The kinds of folds, as their snapshots name them."""


def decode_state(payload: bytes, kind: str, version: int) -> Plain:
    """Decode the snapshot of a fold of this ``kind``, in the format of this ``version``.

    Raises:
        JournalError: it is of another kind, or was made by another version of the product.
    """
    plain: Plain = msgspec.msgpack.decode(payload, strict=False)
    found = plain.get("kind", RECORDING)
    if found != kind:
        raise JournalError(
            f"the run was begun by a daemon that was {found} it, and this one would be {kind} it; "
            "finish the run with the upstream, or without one, with which it was begun"
        )
    if plain["format"] != version:
        raise JournalError(
            f"the journal's snapshot has format {plain['format']}, and this version reads {version}; "
            "finish the run with the version that began it"
        )
    return plain


def dump_books(books: Books) -> Plain:
    """Return the books in plain types; equal books have equal bytes."""
    plain = {name: getattr(books, name) for name in _BOOK_COUNTS}
    return {**plain, "late_by_rank": books.late_by_rank, "warned": sorted(books.warned, key=repr)}


def load_books(plain: Plain) -> Books:
    """Return the books of :func:`dump_books`."""
    warned = {tuple(about) if isinstance(about, list) else about for about in plain["warned"]}
    late = {int(rank): points for rank, points in plain["late_by_rank"].items()}
    return Books(**{name: plain.get(name, 0) for name in _BOOK_COUNTS}, late_by_rank=late, warned=warned)


_BOOK_COUNTS = (
    "received", "folded", "late", "rejected", "rejected_batches", "gap_points", "dropped_points", "records",
    "items", "items_left_out",
)  # fmt: skip


def dump_stream(stream: bytes, source: StreamFold) -> list[Any]:
    """Return a stream's state."""
    return [stream, source.rank, source.attempt, source.names, source.dropped_points]


def load_streams(plain: list[Any]) -> dict[bytes, StreamFold]:
    """Return the streams of which :func:`dump_stream` gave the state."""
    return {stream: StreamFold(*state) for stream, *state in plain}


def dump_key_sets(key_sets: KeySets) -> list[Any]:
    """Return the metrics of automatic steps."""
    return [[step, sorted(names)] for step, names in key_sets.items()]


def load_key_sets(plain: list[Any]) -> KeySets:
    """Return the key sets of :func:`dump_key_sets`."""
    return OrderedDict((step, frozenset(names)) for step, names in plain)


def dump_occurrences(panel: Panel) -> Plain:
    """Return the counters of a panel's occurrences."""
    counters = panel.occurrences
    return {
        "highs": dump_array(counters.first[: len(panel.ranks)]),
        "repeats": list(counters.repeats.items()),
    }


def load_slots(panel: Panel, plain: Plain) -> None:
    """Give ``panel`` the slots and the counters of occurrences that ``plain``, its state, has."""
    for rank in plain["ranks"]:
        panel.slot(rank)
    panel.occurrences.first[: len(panel.ranks)] = load_array(plain["highs"])
    panel.occurrences.repeats = {
        slot: [tuple((high, length) for high, length in runs) for runs in columns]
        for slot, columns in plain["repeats"]
    }


def by_rank(plain: Plain) -> dict[int, Any]:
    """Return a dict by integers, as it was before it was encoded."""
    return {int(rank): value for rank, value in plain.items()}


def dump_array(array: NDArray[Any]) -> tuple[str, tuple[int, ...], bytes]:
    """Return an array's type, shape and content."""
    return array.dtype.str, array.shape, array.tobytes()


def load_array(plain: list[Any]) -> NDArray[Any]:
    """Return the array of :func:`dump_array`; it may be written to."""
    dtype, shape, content = plain
    return np.frombuffer(content, dtype).reshape(shape).copy()
