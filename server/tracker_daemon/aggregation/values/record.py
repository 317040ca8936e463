"""Records: the output of a root's fold and the input of the backends, in columns.

A *record* is one row: (ordinal, step, occurrence) and the cells that closed for them. Records of one tick
with the same columns make one :class:`RecordBlock`. So no stage between the fold and a backend runs a Python
loop per value.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray


class TextCell(msgspec.Struct, frozen=True, array_like=True):
    """A value that is not a number: its row in the block, its column, and the text."""

    row: int
    column: str
    value: str


@dataclass(frozen=True, slots=True, eq=False)
class RecordBlock:
    """n consecutive records with the same c columns.

    ``steps``, ``occurrences`` and ``times_ns`` have shape (n,), ``values`` and ``valid`` (n, c).
    Where ``valid`` is False the record has no such cell; ``valid`` is None when it has all.
    Record i has ordinal ``first_ordinal + i``.
    ``kinds`` holds the kind of each value (``tracker_protocol.kinds``), shape (n, c); None if all are floats.
    """

    first_ordinal: int
    attempt: int
    columns: tuple[str, ...]
    steps: NDArray[np.int64]
    occurrences: NDArray[np.int64]
    times_ns: NDArray[np.int64]
    values: NDArray[np.float64]
    valid: NDArray[np.bool_] | None = None
    texts: tuple[TextCell, ...] = ()
    kinds: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def to_bytes(self) -> bytes:
        """Encode for the outbox; :meth:`from_bytes` returns an equal block."""
        return msgspec.msgpack.encode(
            _WireBlock(
                self.first_ordinal,
                self.attempt,
                self.columns,
                self.steps.astype("<i8").tobytes(),
                self.occurrences.astype("<i8").tobytes(),
                self.times_ns.astype("<i8").tobytes(),
                self.values.astype("<f8").tobytes(),
                None if self.valid is None else np.packbits(self.valid).tobytes(),
                self.texts,
                None if self.kinds is None else self.kinds.astype(np.uint8).tobytes(),
            )
        )

    @staticmethod
    def from_bytes(payload: bytes) -> RecordBlock:
        """Decode the bytes of :meth:`to_bytes`."""
        wire = _decode(payload)
        n, c = len(wire.steps) // 8, len(wire.columns)
        valid = None
        if wire.valid is not None:
            bits = np.unpackbits(np.frombuffer(wire.valid, np.uint8), count=n * c)
            valid = bits.astype(np.bool_).reshape(n, c)
        return RecordBlock(
            wire.first_ordinal,
            wire.attempt,
            wire.columns,
            np.frombuffer(wire.steps, "<i8"),
            np.frombuffer(wire.occurrences, "<i8"),
            np.frombuffer(wire.times_ns, "<i8"),
            np.frombuffer(wire.values, "<f8").reshape(n, c),
            valid,
            wire.texts,
            None if wire.kinds is None else np.frombuffer(wire.kinds, np.uint8).reshape(n, c),
        )


class _WireBlock(msgspec.Struct, frozen=True, array_like=True):
    first_ordinal: int
    attempt: int
    columns: tuple[str, ...]
    steps: bytes
    occurrences: bytes
    times_ns: bytes
    values: bytes
    valid: bytes | None
    texts: tuple[TextCell, ...]
    kinds: bytes | None = None


_decode = msgspec.msgpack.Decoder(_WireBlock).decode
