"""Parts of a fold's state in plain types, as snapshots hold them."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.errors import JournalError

Plain = dict[str, Any]
RECORDING, FORWARDING = "recording", "forwarding"
"""The kinds of folds, as their snapshots name them."""


def decode_state(payload: bytes, kind: str, version: int) -> Plain:
    """What a snapshot of a fold of this ``kind`` holds, in the format of this ``version``.

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
    """The books; equal ones have equal bytes."""
    plain = {name: getattr(books, name) for name in _BOOK_COUNTS}
    return {**plain, "late_by_rank": books.late_by_rank, "warned": sorted(books.warned, key=repr)}


def load_books(plain: Plain) -> Books:
    """What :func:`dump_books` was given."""
    warned = {tuple(about) if isinstance(about, list) else about for about in plain["warned"]}
    late = {int(rank): points for rank, points in plain["late_by_rank"].items()}
    return Books(**{name: plain.get(name, 0) for name in _BOOK_COUNTS}, late_by_rank=late, warned=warned)


_BOOK_COUNTS = (
    "received", "folded", "late", "rejected", "rejected_batches", "gap_points", "dropped_points", "records",
    "items", "items_left_out",
)  # fmt: skip


def by_rank(plain: Plain) -> dict[int, Any]:
    """A dict by integers, as it was before it was encoded."""
    return {int(rank): value for rank, value in plain.items()}


def dump_array(array: NDArray[Any]) -> tuple[str, tuple[int, ...], bytes]:
    """An array's type, shape and content."""
    return array.dtype.str, array.shape, array.tobytes()


def load_array(plain: list[Any]) -> NDArray[Any]:
    """What :func:`dump_array` was given; it may be written to."""
    dtype, shape, content = plain
    return np.frombuffer(content, dtype).reshape(shape).copy()
