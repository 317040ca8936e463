"""Blocks of rows, of numbers and of texts, between messages and values.

Decoding yields numpy views on the bytes that arrived: no number is touched one by one.
"""

from __future__ import annotations

from itertools import chain

import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.values.batch import Keys, Rows, TextRows
from tracker_daemon.errors import MalformedBatch
from tracker_protocol import limits
from tracker_protocol.kinds import Kind
from tracker_protocol.v1 import tracker_pb2 as pb


def check_names(names: tuple[str, ...]) -> None:
    """Raise MalformedBatch unless every name may be a metric's, and occurs once."""
    for name in names:
        size = len(name.encode())
        if not 0 < size <= limits.METRIC_NAME_MAX_BYTES:
            raise MalformedBatch(
                f"a metric name has {size} bytes; 1 to {limits.METRIC_NAME_MAX_BYTES} are allowed"
            )
    if len(set(names)) != len(names):
        raise MalformedBatch("the dictionary of metric names has a name twice")


def checked_keys(keys: Keys, known: int) -> Keys:
    """Return ``keys``, which are a block's, each once and in a dictionary of ``known`` names.

    Raises:
        MalformedBatch: they are not.
    """
    if not keys or len(set(keys)) != len(keys):
        raise MalformedBatch("a block names no metric, or one metric twice")
    if max(keys) >= known:
        raise MalformedBatch(f"a block names metric {max(keys)}, and the stream's dictionary has {known}")
    return keys


def decode_axis(steps: bytes, times: bytes) -> tuple[Integers, Integers]:
    """Return the steps and times of a block's rows; raises MalformedBatch."""
    if not steps or len(steps) % 8 or len(times) != len(steps):
        raise MalformedBatch(f"a block has {len(steps)} bytes of steps and {len(times)} of times")
    decoded = np.frombuffer(steps, "<i8")
    if decoded.max() > limits.STEP_MAX or decoded.min() < -limits.STEP_MAX:
        raise MalformedBatch(f"a step lies beyond ±{limits.STEP_MAX}")
    return decoded, np.frombuffer(times, "<i8")


def encode_integers(values: Integers) -> bytes:
    """Return steps, times or row numbers as little-endian int64."""
    return values.astype("<i8").tobytes()


def decode_row_numbers(raw: bytes, rows: int) -> Integers:
    """Return the numbers of a block's rows within their stream, which rise; raises MalformedBatch."""
    numbers = _integers_of_rows(raw, rows)
    if rows > 1 and (numbers[1:] <= numbers[:-1]).any():
        raise MalformedBatch("the row numbers of a block do not rise")
    _check_row_numbers(numbers[0], numbers[-1])
    return numbers


def decode_rows_of_cells(raw: bytes, rows: int) -> Integers:
    """Return the numbers of rows that are in no order; raises MalformedBatch."""
    numbers = _integers_of_rows(raw, rows)
    _check_row_numbers(numbers.min(), numbers.max())
    return numbers


def _integers_of_rows(raw: bytes, rows: int) -> Integers:
    if len(raw) != 8 * rows:
        raise MalformedBatch(f"a block of {rows} rows has {len(raw)} bytes of row numbers")
    return np.frombuffer(raw, "<i8")


def _check_row_numbers(lowest: np.int64, highest: np.int64) -> None:
    if lowest < 0 or highest > limits.ROW_NUMBER_MAX:
        raise MalformedBatch(f"a row's number is not within 0 and {limits.ROW_NUMBER_MAX}")


def decode_kinds(raw: bytes, shape: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Return the kinds of numbers of this ``shape``, (n, k); None: all are floats. Raises MalformedBatch."""
    if not raw:
        return None
    rows, metrics = shape
    if len(raw) not in (metrics, rows * metrics):
        raise MalformedBatch(f"a block of {rows} rows and {metrics} metrics has {len(raw)} bytes of kinds")
    kinds = np.frombuffer(raw, np.uint8)
    if kinds.max() >= len(Kind):
        raise MalformedBatch(f"a number has kind {kinds.max()}; the last one is {len(Kind) - 1}")
    return np.broadcast_to(kinds.reshape(-1, metrics), shape)


def encode_kinds(kinds: NDArray[np.uint8] | None) -> bytes:
    """Return the bytes of :func:`decode_kinds`, as few as are needed."""
    if kinds is None or not kinds.any():
        return b""
    if (kinds == kinds[0]).all():
        kinds = kinds[0]
    return kinds.astype(np.uint8).tobytes()


def decode_rows(block: pb.Block, known: int) -> Rows:
    """Return the rows of ``block``, given a dictionary of ``known`` names; raises MalformedBatch."""
    keys = checked_keys(tuple(block.keys), known)
    steps, times = decode_axis(block.steps, block.times)
    if len(block.values) != 8 * len(steps) * len(keys):
        raise MalformedBatch(
            f"a block of {len(steps)} rows and {len(keys)} metrics has {len(block.values)} bytes of values"
        )
    values = np.frombuffer(block.values, "<f8").reshape(len(steps), len(keys))
    numbers = decode_row_numbers(block.rows, len(steps))
    kinds = decode_kinds(block.kinds, values.shape)
    return Rows(keys, steps, times, numbers, values, block.automatic_steps, block.own, kinds)


def encode_rows(rows: Rows) -> pb.Block:
    """Return the message for ``rows``."""
    return pb.Block(
        keys=rows.keys,
        steps=encode_integers(rows.steps),
        times=encode_integers(rows.times_ns),
        values=rows.values.astype("<f8").tobytes(),
        automatic_steps=rows.automatic_steps,
        own=rows.own,
        rows=encode_integers(rows.row_numbers),
        kinds=encode_kinds(rows.kinds),
    )


def decode_texts(block: pb.TextBlock, known: int) -> TextRows:
    """Return the texts of ``block``, given a dictionary of ``known`` names; raises MalformedBatch."""
    keys = checked_keys(tuple(block.keys), known)
    steps, times = decode_axis(block.steps, block.times)
    width = len(keys)
    if len(block.values) != len(steps) * width:
        raise MalformedBatch(
            f"a block of {len(steps)} rows and {width} metrics has {len(block.values)} texts"
        )
    flat = list(block.values)
    rows = tuple(tuple(flat[i : i + width]) for i in range(0, len(flat), width))
    if any(len(text) > limits.TEXT_VALUE_MAX_CHARACTERS for text in chain.from_iterable(rows)):
        raise MalformedBatch(f"a text has more than {limits.TEXT_VALUE_MAX_CHARACTERS} characters")
    numbers = decode_row_numbers(block.rows, len(steps))
    return TextRows(keys, steps, times, numbers, rows, block.automatic_steps)


def encode_texts(rows: TextRows) -> pb.TextBlock:
    """Return the message for ``rows``."""
    return pb.TextBlock(
        keys=rows.keys,
        steps=encode_integers(rows.steps),
        times=encode_integers(rows.times_ns),
        values=chain.from_iterable(rows.values),
        rows=encode_integers(rows.row_numbers),
        automatic_steps=rows.automatic_steps,
    )
