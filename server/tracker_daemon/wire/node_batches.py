"""Divides the output of a node's tick into batches for the root, each below its size where that is possible.

A name is sent once: in the body of the first value that uses it, or in an earlier one. Keys are places in the
dictionary of the node's own stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tracker_daemon.aggregation.node.dictionary import name_bytes
from tracker_daemon.aggregation.values.batch import ForwardedValues, Keys, RankPart
from tracker_daemon.aggregation.values.contribution import Contribution, Progress, StepKeys
from tracker_daemon.aggregation.values.item import Item
from tracker_daemon.wire.batches import batch_message
from tracker_daemon.wire.contributions import encode_contribution, encode_progress, encode_step_keys
from tracker_daemon.wire.items import encode_item
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

_FIELD_BYTES = 8
"""The tag and length of a field in a message, at most."""
_KEY_BYTES = 3
_STEP_BYTES = 8
_ROW_BYTES = 4 * _STEP_BYTES + 2
"""A step, a time, a bar, a row's number and an occurrence."""
_VALUE_BYTES = 8 + 1
"""A number and its kind."""
_SUMMARY_BYTES = 4 * 8 + 5 * 4 + 1
_PROGRESS_BYTES = 4 + 2 * _STEP_BYTES + 1
_CONTRIBUTION_BYTES = 20 * _FIELD_BYTES


@dataclass(frozen=True, slots=True)
class ForwardedBatch:
    """The body of a batch for the root, with the SHA-256 digests of its items' contents."""

    body: bytes
    contents: frozenset[str] = frozenset()


def encode_forwarded(values: ForwardedValues) -> tuple[ForwardedBatch, ...]:
    """Return the batches that bring ``values`` to the root, in the order in which they must arrive."""
    writer, report = _BatchWriter(values.first_key, values.names), values.report
    for part in report.parts:
        writer.add_part(part)
    for contribution in report.contributions:
        writer.add_contribution(contribution)
    for step_keys in report.automatic_keys:
        writer.add_step_keys(step_keys)
    for notice in report.notices:
        writer.add_notice(notice)
    for progress in report.progress:
        writer.add_progress(progress)
    if values.dropped_points:
        writer.set_dropped_points(values.dropped_points)
    # Ends have batches of their own: everything that these ranks logged is in earlier ones.
    writer.close()
    for end in values.ends:
        writer.add_part(end)
    return writer.finish()


class _BatchWriter:
    """Writes values, in order, into as many bodies as are needed.

    ``names`` are those that the root does not know yet; their keys begin with ``first_key``.
    """

    def __init__(self, first_key: int, names: tuple[str, ...]) -> None:
        self._unsent_names = dict(enumerate(names, first_key))
        self._done: list[ForwardedBatch] = []
        self._begin()

    def _begin(self) -> None:
        self._body = pb.BatchBody()
        self._parts: dict[bytes, pb.RankPart] = {}
        self._size = 0

    def close(self) -> None:
        """Put everything that follows into another body."""
        if self._size:
            self._done.append(ForwardedBatch(self._body.SerializeToString()))
            self._begin()

    def finish(self) -> tuple[ForwardedBatch, ...]:
        """Return all batches."""
        self.close()
        return tuple(self._done)

    def _make_room(self, size: int) -> None:
        if self._size + size > limits.BATCH_TARGET_BYTES:
            self.close()
        self._size += size

    def _send_names(self, keys: Keys) -> None:
        for key in keys:
            name = self._unsent_names.pop(key, None)
            if name is not None:
                self._make_room(name_bytes(name))
                self._body.names.append(name)

    # ---- values as the ranks sent them -----------------------------------------------------------

    def add_part(self, part: RankPart) -> None:
        """Add what a rank sent."""
        stream, batch = part
        if batch.items and batch.items[0].contents:
            self._add_file(stream, batch.items[0])
            return
        for block in batch.blocks:
            self._send_names(block.keys)
        message = batch_message(batch)
        self._make_room(message.ByteSize() + len(stream) + 3 * _FIELD_BYTES)
        found = self._parts.get(stream)
        if found is None:
            found = self._parts[stream] = self._body.parts.add(stream_id=stream)
        found.body.MergeFrom(message)

    def _add_file(self, stream: bytes, item: Item) -> None:
        """Add an item with contents, in a batch of its own: it waits for its contents."""
        part = pb.RankPart(stream_id=stream, body=pb.BatchBody(items=[encode_item(item)]))
        contents = frozenset(content.sha256 for content in item.contents)
        self._done.append(ForwardedBatch(pb.BatchBody(parts=[part]).SerializeToString(), contents))

    # ---- gathered values -------------------------------------------------------------------------

    def add_contribution(self, contribution: Contribution) -> None:
        """Add cells, in several contributions where they are large."""
        for part in _below_size(contribution):
            self._send_names(part.keys)
            message = encode_contribution(part)
            self._make_room(message.ByteSize() + _FIELD_BYTES)
            self._body.contributions.append(message)

    def add_step_keys(self, given: StepKeys) -> None:
        """Add the metrics that a rank logged at steps that it counted itself."""
        self._send_names(given.keys)
        room = limits.BATCH_TARGET_BYTES - _KEY_BYTES * len(given.keys) - 4 * _FIELD_BYTES
        at_once = max(1, room // _STEP_BYTES)
        for first in range(0, len(given.steps), at_once):
            some = given.steps[first : first + at_once]
            message = encode_step_keys(StepKeys(given.attempt, given.rank, given.keys, some))
            self._make_room(message.ByteSize() + _FIELD_BYTES)
            self._body.automatic_keys.append(message)

    # ---- progress and notices --------------------------------------------------------------------

    def add_progress(self, progress: Progress) -> None:
        """Add the last steps and flushes of ranks."""
        at_once = (limits.BATCH_TARGET_BYTES - 4 * _FIELD_BYTES) // _PROGRESS_BYTES
        for first in range(0, len(progress.ranks), at_once):
            some = slice(first, first + at_once)
            message = encode_progress(
                Progress(
                    progress.attempt,
                    progress.ranks[some],
                    progress.last_steps[some],
                    progress.highest_steps[some],
                    progress.flushed[some],
                )
            )
            self._make_room(message.ByteSize() + _FIELD_BYTES)
            self._body.progress.append(message)

    def add_notice(self, text: str) -> None:
        """Add a sentence for people, cut to its greatest length."""
        text = text[: limits.TEXT_VALUE_MAX_CHARACTERS]
        self._make_room(len(text.encode()) + _FIELD_BYTES)
        self._body.notices.append(text)

    def set_dropped_points(self, points: int) -> None:
        """Set the number of lost values, so far, that no rank's part counts."""
        self._make_room(2 * _FIELD_BYTES)
        self._body.dropped_points = points


def _below_size(cells: Contribution) -> Iterator[Contribution]:
    """Divide ``cells``, by rows and then by columns, into parts that fit a body each."""
    per_cell = _VALUE_BYTES if cells.summary is None else _SUMMARY_BYTES
    bitmap = (int(cells.ranks[-1]) - int(cells.ranks[0])) // 8 + 1
    room = limits.BATCH_TARGET_BYTES - _CONTRIBUTION_BYTES - bitmap
    width = max(1, min(len(cells.keys), (room - _ROW_BYTES) // (_KEY_BYTES + per_cell)))
    height = max(1, (room - _KEY_BYTES * width) // (_ROW_BYTES + per_cell * width))
    for row in range(0, len(cells.steps), height):
        for column in range(0, len(cells.keys), width):
            yield cells.part(slice(row, row + height), slice(column, column + width))
