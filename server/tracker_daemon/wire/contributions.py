"""Contributions, progress and keys of automatic steps, between messages and values.

Decoding checks everything, since the root applies a batch as a whole or not at all.
"""

from __future__ import annotations

import numpy as np

from tracker_daemon.aggregation.numbers.summary import Floats, Integers, Summary
from tracker_daemon.aggregation.values.contribution import Contribution, Progress, StepKeys
from tracker_daemon.errors import MalformedBatch
from tracker_daemon.wire.rows import (
    checked_keys,
    decode_axis,
    decode_kinds,
    decode_rows_of_cells,
    encode_integers,
    encode_kinds,
)
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

# ---- encoding ------------------------------------------------------------------------------------


def encode_contribution(given: Contribution) -> pb.Contribution:
    """Return the message for ``given``."""
    first, bitmap = _bitmap(given.ranks)
    message = pb.Contribution(
        attempt=given.attempt,
        first_rank=first,
        ranks=bitmap,
        keys=given.keys,
        steps=encode_integers(given.steps),
        occurrences=given.occurrences.astype("<u2").tobytes() if given.occurrences.any() else b"",
        times=encode_integers(given.times_ns),
        bars=encode_integers(given.bars),
        rows=b"" if given.row_numbers is None else encode_integers(given.row_numbers),
        kinds=encode_kinds(given.kinds),
    )
    if given.summary is None:
        assert given.values is not None, "one rank has its values, several have a summary"
        message.values = given.values.astype("<f8").tobytes()
        return message
    summary = given.summary
    message.values = summary.mean.astype("<f8").tobytes()
    message.deviations = summary.std.astype("<f8").tobytes()
    message.minima = summary.minimum.astype("<f8").tobytes()
    message.maxima = summary.maximum.astype("<f8").tobytes()
    message.minimum_ranks = summary.minimum_rank.astype("<u4").tobytes()
    message.maximum_ranks = summary.maximum_rank.astype("<u4").tobytes()
    message.nans = _counts(summary.nans)
    message.infinities = _counts(summary.infinities)
    message.negative_infinities = _counts(summary.negative_infinities)
    return message


def _bitmap(ranks: Integers) -> tuple[int, bytes]:
    first = int(ranks[0])
    bits = np.zeros(int(ranks[-1]) - first + 1, np.bool_)
    bits[ranks - first] = True
    return first, np.packbits(bits, bitorder="little").tobytes()


def _counts(counts: Integers) -> bytes:
    return counts.astype("<u4").tobytes() if counts.any() else b""


def encode_progress(given: Progress) -> pb.Progress:
    """Return the message for ``given``."""
    return pb.Progress(
        attempt=given.attempt,
        ranks=given.ranks.astype("<u4").tobytes(),
        last_steps=encode_integers(given.last_steps),
        highest_steps=encode_integers(given.highest_steps),
        flushed=given.flushed.astype(np.uint8).tobytes(),
    )


def encode_step_keys(given: StepKeys) -> pb.StepKeys:
    """Return the message for ``given``."""
    return pb.StepKeys(
        attempt=given.attempt, rank=given.rank, keys=given.keys, steps=encode_integers(given.steps)
    )


# ---- decoding ------------------------------------------------------------------------------------


def decode_contribution(message: pb.Contribution, known: int) -> Contribution:
    """Decode ``message``, given that the node's dictionary has ``known`` names; raises MalformedBatch."""
    ranks = _ranks_of(message)
    keys = checked_keys(tuple(message.keys), known)
    steps, times = decode_axis(message.steps, message.times)
    shape = (len(steps), len(keys))
    occurrences = _occurrences(message.occurrences, len(steps))
    if len({*zip(steps.tolist(), occurrences.tolist(), strict=True)}) < len(steps):
        raise MalformedBatch("a contribution has a step and occurrence twice")
    bars = _bars(message.bars, steps)
    values = _floats(message.values, shape)
    numbers = decode_rows_of_cells(message.rows, len(steps)) if message.rows else None
    if numbers is not None and len(ranks) > 1:
        raise MalformedBatch("a contribution of several ranks has the rows of one")
    alone = len(ranks) == 1
    return Contribution(
        message.attempt,
        ranks,
        keys,
        steps,
        occurrences,
        times,
        bars,
        values if alone else None,
        None if alone else _summary(message, ranks, values, shape),
        numbers,
        decode_kinds(message.kinds, shape),
    )


def _ranks_of(message: pb.Contribution) -> Integers:
    bits = np.unpackbits(np.frombuffer(message.ranks, np.uint8), bitorder="little")
    ranks = message.first_rank + np.flatnonzero(bits)
    if not len(ranks) or ranks[-1] >= limits.WORLD_SIZE_MAX:
        raise MalformedBatch(f"a contribution is of no rank, or of one beyond {limits.WORLD_SIZE_MAX - 1}")
    return ranks


def _occurrences(raw: bytes, rows: int) -> Integers:
    occurrences = np.frombuffer(_whole(raw, 2) or bytes(2 * rows), "<u2").astype(np.int64)
    if len(occurrences) != rows or occurrences.max(initial=0) >= limits.OCCURRENCES_PER_STEP_MAX:
        raise MalformedBatch(f"a contribution of {rows} rows has occurrences that cannot be theirs")
    return occurrences


def _bars(raw: bytes, steps: Integers) -> Integers:
    bars = np.frombuffer(_whole(raw, 8), "<i8")
    if len(bars) != len(steps) or (bars < steps).any() or bars.max() > limits.STEP_MAX:
        raise MalformedBatch(f"a contribution of {len(steps)} rows has highest steps that cannot be theirs")
    return bars


def _summary(message: pb.Contribution, ranks: Integers, mean: Floats, shape: tuple[int, int]) -> Summary:
    summary = Summary(
        np.full(shape, len(ranks), np.int64),
        mean,
        _floats(message.deviations, shape),
        _floats(message.minima, shape),
        _floats(message.maxima, shape),
        _numbers(message.minimum_ranks, shape),
        _numbers(message.maximum_ranks, shape),
        _numbers(message.nans, shape, may_be_empty=True),
        _numbers(message.infinities, shape, may_be_empty=True),
        _numbers(message.negative_infinities, shape, may_be_empty=True),
    )
    floats = (summary.mean, summary.std, summary.minimum, summary.maximum)
    if not all(np.isfinite(array).all() for array in floats) or (summary.std < 0).any():
        raise MalformedBatch("a contribution's statistics over finite values are not finite")
    if (summary.finite < 0).any():
        raise MalformedBatch("a contribution counts more values than it has ranks")
    return summary


def _floats(raw: bytes, shape: tuple[int, int]) -> Floats:
    if len(raw) != 8 * shape[0] * shape[1]:
        raise MalformedBatch(
            f"a contribution of {shape[0]} rows and {shape[1]} metrics has {len(raw)} bytes of values"
        )
    return np.frombuffer(raw, "<f8").reshape(shape)


def _numbers(raw: bytes, shape: tuple[int, int], *, may_be_empty: bool = False) -> Integers:
    if may_be_empty and not raw:
        return np.zeros(shape, np.int64)
    if len(raw) != 4 * shape[0] * shape[1]:
        raise MalformedBatch(
            f"a contribution of {shape[0]} rows and {shape[1]} metrics has {len(raw)} bytes of counts"
        )
    return np.frombuffer(raw, "<u4").reshape(shape).astype(np.int64)


def decode_progress(message: pb.Progress) -> Progress:
    """Decode ``message``; raises MalformedBatch."""
    ranks = np.frombuffer(_whole(message.ranks, 4), "<u4").astype(np.int64)
    steps = np.frombuffer(_whole(message.last_steps, 8), "<i8")
    highest = np.frombuffer(_whole(message.highest_steps, 8), "<i8")
    flushed = np.frombuffer(message.flushed, np.uint8).astype(np.bool_)
    if not len(ranks) == len(steps) == len(highest) == len(flushed) or len(np.unique(ranks)) < len(ranks):
        raise MalformedBatch("the progress of ranks has not one step and one mark for each of them")
    if ranks.max(initial=0) >= limits.WORLD_SIZE_MAX:
        raise MalformedBatch(f"ranks end at {limits.WORLD_SIZE_MAX - 1}")
    return Progress(message.attempt, ranks, steps, highest, flushed)


def decode_step_keys(message: pb.StepKeys, known: int) -> StepKeys:
    """Decode ``message``, given that the node's dictionary has ``known`` names; raises MalformedBatch."""
    keys = checked_keys(tuple(message.keys), known)
    return StepKeys(message.attempt, message.rank, keys, np.frombuffer(_whole(message.steps, 8), "<i8"))


def _whole(raw: bytes, size: int) -> bytes:
    if len(raw) % size:
        raise MalformedBatch(f"{len(raw)} bytes are not a whole number of {size}-byte integers")
    return raw
