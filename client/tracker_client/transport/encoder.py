"""From rows to batches: columns, little-endian, within the message limits.

Rows are put into *blocks*, one for each set of metrics. A row may join an earlier block only if no
block opened since has a metric in common with it; opening a block therefore seals the open ones
that it intersects. So the values of each metric keep the order in which they were logged, which
decides their occurrence, while a script that alternates between disjoint sets of metrics still
makes two long blocks instead of many short ones. Numbers and texts have separate lists in a batch,
so a metric that changes from one to the other starts a new batch.

New names and configurations travel in batches of their own, ahead of the rows that need them:
rows may have to be dropped later, names never.

Besides ``stream`` this is the only module that uses protobuf: for a batch's body, nothing else.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from tracker_client.staging.items import PlacedItem
from tracker_client.staging.rows import LoggedRow
from tracker_client.values.refusals import Refusals
from tracker_client.values.snapshot import PLAIN
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

ROW_OVERHEAD_BYTES = 16
"""A step and a time."""
KEY_BYTES = 3
"""An index into the dictionary, as a varint, for up to 2,097,151 names."""
BLOCK_OVERHEAD_BYTES = 32
TEXT_OVERHEAD_BYTES = 4


@dataclass(frozen=True)
class Body:
    """A batch without its sequence number.

    ``names`` are the dictionary's entries from ``first_name`` on; a Hello that has them already
    makes them superfluous (:meth:`data_after`). Only batches of rows alone may be dropped.
    """

    data: bytes
    points: int = 0
    droppable: bool = False
    first_name: int = 0
    names: tuple[str, ...] = ()

    def data_after(self, names_known: int) -> bytes:
        """The body's bytes for a daemon that knows the first ``names_known`` names."""
        if not self.names or names_known <= self.first_name:
            return self.data
        return pb.BatchBody(names=self.names[names_known - self.first_name :]).SerializeToString()


class NameDictionary:
    """The stream's metric names, by index; bounded so that a Hello can always carry all of them."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.announced = 0
        self._indices: dict[str, int] = {}
        self._bytes = 0

    def index(self, name: object) -> int:
        """The index of ``name``, new or known.

        Raises:
            ValueError: no metric can have this name; the message says why.
        """
        if type(name) is not str:
            if not isinstance(name, str):
                raise ValueError(
                    f"a metric's name is a text, not a {type(name).__name__}; it is not recorded"
                )
            name = str.__str__(name)
        known = self._indices.get(name)
        return self._add(name) if known is None else known

    def _add(self, name: str) -> int:
        try:
            size = len(name.encode())
        except UnicodeEncodeError:
            raise ValueError("this name is not valid Unicode; it is not recorded") from None
        if not 1 <= size <= limits.METRIC_NAME_MAX_BYTES:
            raise ValueError(f"a metric's name has 1 to {limits.METRIC_NAME_MAX_BYTES} bytes, not {size}")
        full = self._bytes + size + TEXT_OVERHEAD_BYTES > limits.HELLO_NAMES_MAX_BYTES
        if full or len(self.names) >= limits.METRICS_PER_RUN_MAX:
            raise ValueError(f"this process has logged {len(self.names)} names, as many as a run may have")
        self._bytes += size + TEXT_OVERHEAD_BYTES
        self._indices[name] = len(self.names)
        self.names.append(name)
        return len(self.names) - 1


@dataclass
class _OpenBlock:
    keys: tuple[int, ...]
    group: object
    is_text: bool
    automatic: bool
    own: bool
    steps: array[int] = field(default_factory=lambda: array("q"))
    times: array[int] = field(default_factory=lambda: array("q"))
    numbers: array[float] = field(default_factory=lambda: array("d"))
    texts: list[str] = field(default_factory=list)


class Encoder:
    """Builds one batch at a time. ``dropped_points()`` tells the count that each batch carries."""

    def __init__(self, refusals: Refusals, dropped_points: Callable[[], int]) -> None:
        self.dictionary = NameDictionary()
        self._refusals = refusals
        self._dropped_points = dropped_points
        self._clear()

    def _clear(self) -> None:
        self._blocks: list[_OpenBlock] = []
        self._open: dict[object, _OpenBlock] = {}
        self._owner: dict[int, _OpenBlock] = {}
        self._bytes = 0
        self._points = 0

    # ---- rows ------------------------------------------------------------------------------------

    def add(self, row: LoggedRow) -> list[Body]:
        """Take one row; the batches that are full because of it."""
        if abs(row.step) > limits.STEP_MAX:
            self._refusals.refuse("step", f"a step lies beyond ±{limits.STEP_MAX}", values=len(row.values))
            return []
        values = row.values
        try:
            if not row.own and PLAIN.issuperset(map(type, values.values())):
                return self._add_numbers(row, (tuple(values), row.automatic))
            return self._add_mixed(row)
        except Exception as error:  # noqa: BLE001 - a key's hash and comparison are the user's code
            self._refusals.refuse("a row", f"encoding it raised {error!r}", values=len(values))
            return []

    def _add_numbers(self, row: LoggedRow, group: object) -> list[Body]:
        block = self._open.get(group)
        size = ROW_OVERHEAD_BYTES + 8 * len(row.values)
        if block is None or self._bytes + size > limits.BATCH_TARGET_BYTES:
            return self._add_mixed(row)
        count = len(block.numbers)
        try:
            block.numbers.extend(row.values.values())  # type: ignore[arg-type]  # all plain numbers
        except OverflowError:
            del block.numbers[count:]
            return self._add_mixed(row)
        self._count_row(block, row, size)
        return []

    def _add_mixed(self, row: LoggedRow) -> list[Body]:
        """The general path: check each name and value, part numbers from texts, split wide rows."""
        numbers: dict[int, float] = {}
        texts: dict[int, str] = {}
        for name, value in row.values.items():
            self._sort_in(name, value, numbers, texts)
        full: list[Body] = []
        for part in _parts(numbers, lambda _: 8):
            full += self._add_part(row, part, is_text=False)
        for part in _parts(texts, _text_bytes):
            full += self._add_part(row, part, is_text=True)
        return full

    def _sort_in(self, name: Any, value: Any, numbers: dict[int, float], texts: dict[int, str]) -> None:
        try:
            index = self.dictionary.index(name)
            if isinstance(value, str):
                texts[index] = value.encode("utf-8", "replace").decode()
            else:
                numbers[index] = float(value)
        except (TypeError, ValueError) as error:
            self._refusals.refuse(name, str(error))
        except OverflowError:
            self._refusals.refuse(name, "an integer is too large for a float64; it is not recorded")

    def _add_part(self, row: LoggedRow, part: dict[int, Any], *, is_text: bool) -> list[Body]:
        keys = tuple(part)
        size = ROW_OVERHEAD_BYTES + (sum(map(_text_bytes, part.values())) if is_text else 8 * len(part))
        opening = BLOCK_OVERHEAD_BYTES + (KEY_BYTES + TEXT_OVERHEAD_BYTES) * len(keys)
        full: list[Body] = []
        changed_kind = any(self._owner[key].is_text is not is_text for key in keys if key in self._owner)
        if changed_kind or (self._blocks and self._bytes + size + opening > limits.BATCH_TARGET_BYTES):
            full = self.close()
        group = self._group(row, keys, is_text=is_text)
        block = self._open.get(group) or self._open_block(keys, group, opening, row, is_text=is_text)
        if is_text:
            block.texts.extend(part.values())
        else:
            block.numbers.extend(part.values())
        self._count_row(block, row, size)
        return full

    def _group(self, row: LoggedRow, keys: tuple[int, ...], *, is_text: bool) -> object:
        """Rows of one group may share a block. The group of a whole numeric row needs no look-up of names."""
        if not is_text and not row.own and len(keys) == len(row.values):
            return (tuple(row.values), row.automatic)
        return (keys, row.automatic, is_text, row.own)

    def _open_block(
        self, keys: tuple[int, ...], group: object, opening: int, row: LoggedRow, *, is_text: bool
    ) -> _OpenBlock:
        block = _OpenBlock(keys, group, is_text, row.automatic, row.own)
        for key in keys:
            earlier = self._owner.get(key)
            if earlier is not None:
                self._open.pop(earlier.group, None)
            self._owner[key] = block
        self._open[group] = block
        self._blocks.append(block)
        self._bytes += opening
        return block

    def _count_row(self, block: _OpenBlock, row: LoggedRow, size: int) -> None:
        block.steps.append(row.step)
        block.times.append(row.time_ns)
        self._bytes += size
        self._points += len(block.keys)

    # ---- batches ---------------------------------------------------------------------------------

    def close(self, *, flushed: bool = False) -> list[Body]:
        """The batch as it stands, after those that announce its names; nothing if it has no row."""
        if not self._blocks:
            return []
        bodies = list(self._announcements())
        message = pb.BatchBody(
            blocks=[_number_block(block) for block in self._blocks if not block.is_text],
            texts=[_text_block(block) for block in self._blocks if block.is_text],
            dropped_points=self._dropped_points(),
            flushed=flushed,
        )
        bodies.append(Body(message.SerializeToString(), self._points, droppable=True))
        self._clear()
        return bodies

    def _announcements(self) -> Iterator[Body]:
        dictionary = self.dictionary
        while dictionary.announced < len(dictionary.names):
            first = dictionary.announced
            names: list[str] = []
            size = 0
            for name in islice(dictionary.names, first, None):
                size += len(name.encode()) + TEXT_OVERHEAD_BYTES
                if size > limits.BATCH_TARGET_BYTES:
                    break
                names.append(name)
            dictionary.announced = first + len(names)
            yield Body(pb.BatchBody(names=names).SerializeToString(), first_name=first, names=tuple(names))

    def config(self, documents: list[str]) -> list[Body]:
        """Batches that carry configurations, in their order."""
        return [Body(pb.BatchBody(config=[document]).SerializeToString()) for document in documents]

    def items(self, items: Sequence[PlacedItem]) -> list[Body]:
        """Batches that carry ``items``, in their order; a large one has a batch of its own."""
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

    def finish(self, exit_code: int) -> Body:
        """The last batch of the stream."""
        message = pb.BatchBody(dropped_points=self._dropped_points(), flushed=True, finish=exit_code)
        return Body(message.SerializeToString())


def _parts(values: dict[int, Any], size_of: Callable[[Any], int]) -> Iterator[dict[int, Any]]:
    """``values`` in parts that each fit a message: all of them at once, except for very wide rows."""
    part: dict[int, Any] = {}
    size = 0
    for key, value in values.items():
        size += size_of(value)
        if part and (len(part) >= limits.METRICS_PER_ROW_MAX or size > limits.BATCH_TARGET_BYTES):
            yield part
            part, size = {}, size_of(value)
        part[key] = value
    if part:
        yield part


def _text_bytes(text: str) -> int:
    return len(text.encode()) + TEXT_OVERHEAD_BYTES


def _number_block(block: _OpenBlock) -> pb.Block:
    return pb.Block(
        keys=block.keys,
        steps=_little_endian(block.steps),
        times=_little_endian(block.times),
        values=_little_endian(block.numbers),
        automatic_steps=block.automatic,
        own=block.own,
    )


def _text_block(block: _OpenBlock) -> pb.TextBlock:
    return pb.TextBlock(
        keys=block.keys,
        steps=_little_endian(block.steps),
        times=_little_endian(block.times),
        values=block.texts,
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
    )


def _little_endian(values: array[Any]) -> bytes:
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()
