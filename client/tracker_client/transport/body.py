"""The body of a batch, as bytes: columns are little-endian.

Only a body knows protobuf; the encoder, which fills it, does not.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tracker_client.settings.metric_options import MetricDefinition
from tracker_client.staging.items import PlacedItem
from tracker_client.transport.blocks import BatchBlocks, Block
from tracker_client.values.exit_status import ExitStatusFile
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb


@dataclass(frozen=True)
class Body:
    """A batch without its sequence number.

    ``names`` are the dictionary's entries from ``first_name`` on. If a Hello has carried some of them,
    :meth:`data_after` leaves those out. ``droppable``: the batch has only rows, and may be dropped.
    """

    data: bytes
    points: int = 0
    droppable: bool = False
    first_name: int = 0
    names: tuple[str, ...] = ()

    def data_after(self, names_known: int) -> bytes:
        """Return the body's bytes for a daemon that knows the first ``names_known`` names."""
        if not self.names or names_known <= self.first_name:
            return self.data
        return pb.BatchBody(names=self.names[names_known - self.first_name :]).SerializeToString()


def names_body(first: int, names: Sequence[str]) -> Body:
    """Return a batch that announces names."""
    return Body(pb.BatchBody(names=names).SerializeToString(), first_name=first, names=tuple(names))


def rows_body(blocks: BatchBlocks, *, dropped_points: int, flushed: bool) -> Body:
    """Return a batch of rows."""
    message = pb.BatchBody(
        blocks=[_number_block(block) for block in blocks.blocks if not block.is_text],
        texts=[_text_block(block) for block in blocks.blocks if block.is_text],
        dropped_points=dropped_points,
        flushed=flushed,
    )
    return Body(message.SerializeToString(), blocks.points, droppable=True)


def config_body(document: str) -> Body:
    """Return a batch that carries a configuration, as JSON."""
    return Body(pb.BatchBody(config=[document]).SerializeToString())


def definitions_body(definitions: Iterable[MetricDefinition]) -> Body:
    """Return a batch that carries definitions of metrics."""
    message = pb.BatchBody()
    for definition in definitions:
        message.definitions.add(
            glob=definition.name, step_metric=definition.step_metric, summary=definition.summary
        )
    return Body(message.SerializeToString())


def item_bodies(items: Iterable[PlacedItem]) -> list[Body]:
    """Return batches that carry ``items``, in their order; a large item has its own batch."""
    bodies: list[Body] = []
    message, size = pb.BatchBody(), 0
    for item in items:
        encoded = _item(item)
        weight = encoded.ByteSize()
        if size and size + weight > limits.BATCH_TARGET_BYTES:
            bodies.append(Body(message.SerializeToString()))
            message, size = pb.BatchBody(), 0
        message.items.append(encoded)
        size += weight
    return [*bodies, Body(message.SerializeToString())] if size else bodies


def finish_body(exit_code: int | None, exit_status: ExitStatusFile | None, *, dropped_points: int) -> Body:
    """Return the last batch of a stream; without a code it names the file of the exit status."""
    message = pb.BatchBody(dropped_points=dropped_points, flushed=True, finish=exit_code)
    if exit_status is not None:
        message.exiting.CopyFrom(pb.Exiting(status_fd=exit_status.descriptor, nonce=exit_status.nonce))
    return Body(message.SerializeToString())


def _number_block(block: Block) -> pb.Block:
    return pb.Block(
        keys=block.keys,
        steps=_little_endian(block.steps),
        times=_little_endian(block.times),
        values=_little_endian(block.numbers),
        automatic_steps=block.automatic,
        own=block.own,
        rows=_little_endian(block.rows),
        kinds=block.kinds,
    )


def _text_block(block: Block) -> pb.TextBlock:
    return pb.TextBlock(
        keys=block.keys,
        steps=_little_endian(block.steps),
        times=_little_endian(block.times),
        values=block.texts,
        rows=_little_endian(block.rows),
        automatic_steps=block.automatic,
    )


def _item(item: PlacedItem) -> pb.Item:
    return pb.Item(
        kind=item.kind,
        key=item.key,
        step=item.step,
        automatic_step=item.automatic_step,
        time_ns=item.time_ns,
        document=item.document,
        contents=[
            pb.Content(sha256=content.sha256, size_bytes=content.size_bytes, path=content.path)
            for content in item.contents
        ],
        row=item.row,
    )


def _little_endian(values: array[Any]) -> bytes:
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()
