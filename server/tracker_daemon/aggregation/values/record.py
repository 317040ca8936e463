"""Records: the output of a root's fold and the input of the backends, in columns.

A *record* has an ordinal, a step, and the closed cells of one row of a rank. Records of one tick with the
same columns make one :class:`RecordBlock`. So no stage between the fold and a backend runs a Python loop per
value.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import msgspec
import numpy as np
from numpy.typing import NDArray

from tracker_protocol import limits

_MS_NS = 1_000_000


class TextCell(msgspec.Struct, frozen=True, array_like=True):
    """A value that is not a number: its row in the block, its column, and the text."""

    row: int
    column: str
    value: str


@dataclass(frozen=True, slots=True, eq=False)
class AxisColumn:
    """The values of a metric that is the axis of ``columns``: ``values`` (n,), NaN where a record has none.

    A record has the axis value of its row even if the metric itself is in another record. ``texts`` are
    columns of texts with this axis.
    """

    name: str
    columns: tuple[int, ...]
    values: NDArray[np.float64]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class RecordBlock:
    """n consecutive records with the same c columns.

    ``steps`` and ``times_ns`` have shape (n,), ``values``, ``valid`` and ``kinds`` (n, c).
    Where ``valid`` is False the record has no such cell; ``valid`` is None when it has all.
    ``kinds`` are those of :class:`Kind`; None when all values are floats.
    ``summaries`` are the kinds of summaries that the run's rules ask for, each with the positions of its
    columns.
    Record i has ordinal ``first_ordinal + i``. Times in milliseconds rise strictly within a step.
    """

    first_ordinal: int
    attempt: int
    columns: tuple[str, ...]
    steps: NDArray[np.int64]
    times_ns: NDArray[np.int64]
    values: NDArray[np.float64]
    valid: NDArray[np.bool_] | None = None
    texts: tuple[TextCell, ...] = ()
    kinds: NDArray[np.uint8] | None = None
    axes: tuple[AxisColumn, ...] = ()
    summaries: tuple[tuple[str, tuple[int, ...]], ...] = ()

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
                self.times_ns.astype("<i8").tobytes(),
                self.values.astype("<f8").tobytes(),
                None if self.valid is None else np.packbits(self.valid).tobytes(),
                self.texts,
                None if self.kinds is None else self.kinds.astype(np.uint8).tobytes(),
                tuple(
                    (axis.name, axis.columns, axis.values.astype("<f8").tobytes(), axis.texts)
                    for axis in self.axes
                ),
                self.summaries,
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
            np.frombuffer(wire.times_ns, "<i8"),
            np.frombuffer(wire.values, "<f8").reshape(n, c),
            valid,
            wire.texts,
            None if wire.kinds is None else np.frombuffer(wire.kinds, np.uint8).reshape(n, c),
            tuple(
                AxisColumn(name, at, np.frombuffer(values, "<f8"), texts)
                for name, at, values, texts in wire.axes
            ),
            wire.summaries,
        )


class RecordTimes:
    """Lets the times of a run's records, in milliseconds, rise strictly within each step.

    The last times of RECORD_TIMES_KEPT steps are kept. For an older step the latest forgotten time counts.
    """

    def __init__(self, last_ms: Iterable[tuple[int, int]] = (), forgotten_ms: int = -1) -> None:
        self.last_ms = OrderedDict(last_ms)
        """By step, the time of its last record."""
        self.forgotten_ms = forgotten_ms

    def of(self, steps: list[int], times_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the times of records, in order; ``times_ns`` are the times at which they were logged."""
        at_once = self._of_new_steps(steps, times_ns // _MS_NS)
        if at_once:
            return times_ns
        return np.array(list(map(self.next, steps, times_ns.tolist())), np.int64)

    def _of_new_steps(self, steps: list[int], times_ms: NDArray[np.int64]) -> bool:
        """Note the times of records whose steps are new and whose times are later than the forgotten ones.

        Return False, and note nothing, if there are others.
        """
        excess = len(self.last_ms) + len(steps) - limits.RECORD_TIMES_KEPT
        if excess > len(self.last_ms) or len(set(steps)) < len(steps):
            return False
        if not self.last_ms.keys().isdisjoint(steps):
            return False
        leaving = list(islice(self.last_ms, max(0, excess)))
        forgotten_ms = max(map(self.last_ms.__getitem__, leaving), default=-1)
        if int(times_ms.min()) <= max(self.forgotten_ms, forgotten_ms):
            return False
        for step in leaving:
            del self.last_ms[step]
        self.last_ms.update(zip(steps, times_ms.tolist(), strict=True))
        self.forgotten_ms = max(self.forgotten_ms, forgotten_ms)
        return True

    def next(self, step: int, time_ns: int) -> int:
        """Return the time of a record at ``step`` that was logged at ``time_ns``, in ns."""
        time_ms = time_ns // _MS_NS
        last_ms = self.last_ms.pop(step, None)
        if last_ms is None:
            last_ms = self.forgotten_ms
        self.last_ms[step] = max(time_ms, last_ms + 1)
        if len(self.last_ms) > limits.RECORD_TIMES_KEPT:
            self.forgotten_ms = max(self.forgotten_ms, self.last_ms.popitem(last=False)[1])
        return time_ns if time_ms > last_ms else (last_ms + 1) * _MS_NS


class _WireBlock(msgspec.Struct, frozen=True, array_like=True):
    first_ordinal: int
    attempt: int
    columns: tuple[str, ...]
    steps: bytes
    times_ns: bytes
    values: bytes
    valid: bytes | None
    texts: tuple[TextCell, ...]
    kinds: bytes | None
    axes: tuple[tuple[str, tuple[int, ...], bytes, tuple[str, ...]], ...]
    summaries: tuple[tuple[str, tuple[int, ...]], ...]


_decode = msgspec.msgpack.Decoder(_WireBlock).decode
