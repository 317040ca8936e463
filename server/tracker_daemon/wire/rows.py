"""Blocks of rows, of numbers and of texts, between messages and values.

Decoding yields numpy views on the bytes that arrived: no number is touched one by one.
"""

from __future__ import annotations

from itertools import chain

import numpy as np

from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.values.batch import Keys, Rows, TextRows
from tracker_daemon.errors import MalformedBatch
from tracker_protocol import limits
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
    """Return steps or times as little-endian int64."""
    return values.astype("<i8").tobytes()


def decode_rows(block: pb.Block, known: int) -> Rows:
    """Return the rows of ``block``, given a dictionary of ``known`` names; raises MalformedBatch."""
    keys = checked_keys(tuple(block.keys), known)
    steps, times = decode_axis(block.steps, block.times)
    if len(block.values) != 8 * len(steps) * len(keys):
        raise MalformedBatch(
            f"a block of {len(steps)} rows and {len(keys)} metrics has {len(block.values)} bytes of values"
        )
    values = np.frombuffer(block.values, "<f8").reshape(len(steps), len(keys))
    return Rows(keys, steps, times, values, block.automatic_steps, block.own)


def encode_rows(rows: Rows) -> pb.Block:
    """Return the message for ``rows``."""
    return pb.Block(
        keys=rows.keys,
        steps=encode_integers(rows.steps),
        times=encode_integers(rows.times_ns),
        values=rows.values.astype("<f8").tobytes(),
        automatic_steps=rows.automatic_steps,
        own=rows.own,
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
    return TextRows(keys, steps, times, rows)


def encode_texts(rows: TextRows) -> pb.TextBlock:
    """Return the message for ``rows``."""
    return pb.TextBlock(
        keys=rows.keys,
        steps=encode_integers(rows.steps),
        times=encode_integers(rows.times_ns),
        values=chain.from_iterable(rows.values),
    )
