"""A batch's body, decoded and checked as a whole, before anything of it is used.

Decoding yields numpy views on the bytes that arrived: no value is touched one by one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from tracker_daemon.aggregation.shared.contribution import (
    Contribution,
    Progress,
    StepKeys,
    checked_keys,
    decode_axis,
    decode_contribution,
    decode_progress,
    decode_step_keys,
)
from tracker_daemon.aggregation.shared.item import Item, decode_items
from tracker_daemon.errors import MalformedBatch
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

_STREAM_ID_BYTES = 16


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """n rows that share k metrics: ``steps`` and ``times_ns`` are (n,), ``values`` (n, k).

    ``keys`` index the stream's dictionary of names. ``own``: nothing is to be computed of them.
    """

    keys: tuple[int, ...]
    steps: NDArray[np.int64]
    times_ns: NDArray[np.int64]
    values: NDArray[np.float64]
    automatic_steps: bool
    own: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class TextRows:
    """n rows of k texts each; ``values[i]`` are the texts of row i."""

    keys: tuple[int, ...]
    steps: NDArray[np.int64]
    times_ns: NDArray[np.int64]
    values: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class DecodedBatch:
    """What one batch says. ``points`` counts its values, numbers and texts."""

    names: tuple[str, ...]
    rows: tuple[Rows, ...]
    texts: tuple[TextRows, ...]
    config: tuple[str, ...]
    dropped_points: int
    flushed: bool
    finish: int | None
    points: int
    items: tuple[Item, ...] = ()
    forwarded: NodeReport | None = None
    """Of a node's daemon: what it has gathered of its ranks."""


@dataclass(frozen=True, slots=True, eq=False)
class NodeReport:
    """What a node's daemon says of its ranks; ``parts`` are by the streams of these."""

    parts: tuple[tuple[bytes, DecodedBatch], ...]
    contributions: tuple[Contribution, ...]
    progress: tuple[Progress, ...]
    automatic_keys: tuple[StepKeys, ...]
    notices: tuple[str, ...]

    @property
    def points(self) -> int:
        """How many values of ranks it stands for."""
        return sum(part.points for _, part in self.parts) + sum(c.points for c in self.contributions)


def decode_batch(body: bytes, names_known: int) -> DecodedBatch:
    """Decode ``body``, given that the stream's dictionary held ``names_known`` names before it.

    Raises:
        MalformedBatch: anything in it breaks the protocol; nothing of it may be used.
    """
    message = pb.BatchBody()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise MalformedBatch(f"the batch is not a BatchBody: {error}") from error
    return _decoded(message, names_known)


def _decoded(message: pb.BatchBody, names_known: int) -> DecodedBatch:
    names = tuple(message.names)
    check_names(names)
    known = names_known + len(names)
    rows = tuple(_decode_block(block, known) for block in message.blocks)
    texts = tuple(_decode_texts(block, known) for block in message.texts)
    for document in message.config:
        _check_config(document)
    points = sum(block.values.size for block in rows)
    points += sum(len(block.keys) * len(block.steps) for block in texts)
    forwarded = _decode_forwarded(message, known)
    if forwarded is not None:
        points += forwarded.points
    finish = message.finish if message.HasField("finish") else None
    return DecodedBatch(
        names, rows, texts, tuple(message.config), message.dropped_points, message.flushed, finish, points,
        decode_items(message.items), forwarded,
    )  # fmt: skip


def _decode_forwarded(message: pb.BatchBody, known: int) -> NodeReport | None:
    lists = (
        message.parts, message.contributions, message.progress, message.automatic_keys, message.notices
    )  # fmt: skip
    if not any(lists):
        return None
    return NodeReport(
        tuple(_decode_part(part, known) for part in message.parts),
        tuple(decode_contribution(contribution, known) for contribution in message.contributions),
        tuple(decode_progress(progress) for progress in message.progress),
        tuple(decode_step_keys(keys, known) for keys in message.automatic_keys),
        tuple(message.notices),
    )


def _decode_part(part: pb.RankPart, known: int) -> tuple[bytes, DecodedBatch]:
    if len(part.stream_id) != _STREAM_ID_BYTES:
        raise MalformedBatch(f"a stream id has {_STREAM_ID_BYTES} bytes, not {len(part.stream_id)}")
    if part.body.names or part.body.parts or part.body.contributions:
        raise MalformedBatch("a rank's part of a node's batch has names, or parts of its own")
    decoded = _decoded(part.body, known)
    if not all(block.own for block in decoded.rows):
        raise MalformedBatch("a rank's part of a node's batch has values that are for contributions")
    return part.stream_id, decoded


def check_names(names: tuple[str, ...]) -> None:
    """Raise MalformedBatch unless every name is one that a metric may have, and there once."""
    for name in names:
        size = len(name.encode())
        if not 0 < size <= limits.METRIC_NAME_MAX_BYTES:
            raise MalformedBatch(
                f"a metric name has {size} bytes; 1 to {limits.METRIC_NAME_MAX_BYTES} are allowed"
            )
    if len(set(names)) != len(names):
        raise MalformedBatch("the dictionary of metric names has a name twice")


def _decode_block(block: pb.Block, known: int) -> Rows:
    keys = checked_keys(tuple(block.keys), known)
    steps, times = decode_axis(block.steps, block.times)
    if len(block.values) != 8 * len(steps) * len(keys):
        raise MalformedBatch(
            f"a block of {len(steps)} rows and {len(keys)} metrics has {len(block.values)} bytes of values"
        )
    values = np.frombuffer(block.values, "<f8").reshape(len(steps), len(keys))
    return Rows(keys, steps, times, values, block.automatic_steps, block.own)


def _decode_texts(block: pb.TextBlock, known: int) -> TextRows:
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


def _check_config(document: str) -> None:
    try:
        parsed = json.loads(document)
    except ValueError as error:
        raise MalformedBatch(f"a configuration is not JSON: {error}") from error
    except RecursionError as error:
        raise MalformedBatch("a configuration is nested too deeply") from error
    if not isinstance(parsed, dict):
        raise MalformedBatch("a configuration is not a JSON object")
