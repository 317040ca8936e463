"""The blocks of a batch: columns of rows that have the same metrics.

A row may join an earlier block only if no block opened since has a metric in common with the row; opening a
block therefore seals the open blocks that it intersects. So the values of each metric keep the order in which
they were logged, which decides their occurrence. A script that alternates between disjoint sets of metrics
still makes two long blocks instead of many short ones.

A batch lists numbers and texts apart, so a metric that changes from one to the other starts a new batch.

Each row has its number within the stream. So the daemon can join the parts of a row, which may be in several
blocks and batches.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

from tracker_client.staging.rows import LoggedRow
from tracker_client.transport.name_dictionary import NAME_OVERHEAD_BYTES
from tracker_client.values.snapshot import PLAIN
from tracker_protocol import limits
from tracker_protocol.kinds import ROUNDED_FROM, Kind

ROW_OVERHEAD_BYTES = 24
"""A step, a time and a row's number."""
NUMBER_BYTES = 8
KEY_BYTES = 3
"""An index into the dictionary, as a varint, for up to 2,097,151 names."""
BLOCK_OVERHEAD_BYTES = 32
TEXT_OVERHEAD_BYTES = 4
Types = tuple[type, ...]
_KIND_OF: dict[type, int] = {float: Kind.FLOAT, int: Kind.INT, bool: Kind.BOOL}


def text_bytes(text: str) -> int:
    """Return the bytes that ``text`` needs in a block."""
    return len(text.encode()) + TEXT_OVERHEAD_BYTES


@dataclass
class Block:
    """Rows of n steps, times and row numbers, with n × len(``keys``) numbers or texts, row by row.

    ``types`` are the types of each row's numbers; None once rows differ. From then on ``mixed`` has the kind
    of each number.
    """

    keys: tuple[int, ...]
    group: object
    is_text: bool
    automatic: bool
    own: bool
    types: Types | None = None
    mixed: bytearray = field(default_factory=bytearray)
    rows: array[int] = field(default_factory=lambda: array("q"))
    steps: array[int] = field(default_factory=lambda: array("q"))
    times: array[int] = field(default_factory=lambda: array("q"))
    numbers: array[float] = field(default_factory=lambda: array("d"))
    texts: list[str] = field(default_factory=list)
    row_bytes: int = 0

    def __post_init__(self) -> None:
        self.row_bytes = ROW_OVERHEAD_BYTES + NUMBER_BYTES * len(self.keys)

    @property
    def kinds(self) -> bytes:
        """The kinds of the numbers, as the wire has them: of each number, of each metric, or none."""
        if self.types is None:
            return bytes(self.mixed)
        kinds = _kinds(self.types)
        return kinds if any(kinds) else b""

    def wide_integers(self) -> set[int]:
        """Return the keys of the integers that a float64 may have rounded."""
        width, numbers = len(self.keys), self.numbers
        if self.types is None:
            wide = (
                at
                for at, kind in enumerate(self.mixed)
                if kind == Kind.INT and abs(numbers[at]) >= ROUNDED_FROM
            )
            return {self.keys[at % width] for at in wide}
        columns = (numbers[at::width] for at, kind in enumerate(self.types) if kind is int)
        keys = (key for key, kind in zip(self.keys, self.types, strict=True) if kind is int)
        return {
            key
            for key, column in zip(keys, columns, strict=True)
            if max(column) >= ROUNDED_FROM or min(column) <= -ROUNDED_FROM
        }

    def take_types(self, types: Types) -> int:
        """Note the types of a row that is about to be added; return the bytes that their kinds need."""
        if types == self.types:
            return 0
        if not self.steps:
            self.types = types
            return 0
        before = len(self.mixed)
        if self.types is not None:
            self.mixed = bytearray(_kinds(self.types) * len(self.steps))
            self.types = None
        self.mixed += _kinds(types)
        return len(self.mixed) - before


class BatchBlocks:
    """The blocks of one batch, in the order in which they were opened."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.points = 0
        self._bytes = 0
        self._open: dict[object, Block] = {}
        self._owner: dict[int, Block] = {}
        """The last block of each metric."""

    def add_numbers(self, row: LoggedRow) -> bool:
        """Append a row of plain numbers to the open block of its names: the fast path.

        Returns:
            False if the row needs :meth:`add` instead: no such block is open, the batch is full, a value is
            no plain number, or an integer is too large for a float64.
        """
        step, time_ns, values, automatic, _, own, number = row
        block = self._open.get((tuple(values), automatic))
        if block is None or own or self._bytes + block.row_bytes > limits.BATCH_TARGET_BYTES:
            return False
        types = tuple(map(type, values.values()))
        is_alike = types == block.types
        if not (is_alike or PLAIN.issuperset(types)):
            return False
        count = len(block.numbers)
        try:
            block.numbers.extend(values.values())  # type: ignore[arg-type]  # all plain numbers
        except OverflowError:
            del block.numbers[count:]
            return False
        if not is_alike:
            self._bytes += block.take_types(types)
        block.rows.append(number)
        block.steps.append(step)
        block.times.append(time_ns)
        self._bytes += block.row_bytes
        self.points += len(types)
        return True

    def fits(self, part: dict[int, Any], *, is_text: bool) -> bool:
        """Return True if ``part``, values by their names' indices, may join this batch."""
        if any(self._owner[key].is_text is not is_text for key in part if key in self._owner):
            return False
        size = _row_bytes(part, is_text=is_text) + _opening_bytes(part)
        return not self.blocks or self._bytes + size <= limits.BATCH_TARGET_BYTES

    def add(self, row: LoggedRow, part: dict[int, Any], *, is_text: bool) -> None:
        """Append ``part`` of ``row``, values by their names' indices, to a block that may be new."""
        group = _group(row, part, is_text=is_text)
        block = self._open.get(group) or self._open_block(group, row, part, is_text=is_text)
        size = _row_bytes(part, is_text=is_text)
        if is_text:
            block.texts.extend(part.values())
        else:
            block.numbers.extend(part.values())
            size += block.take_types(tuple(map(type, part.values())))
        self._count_row(block, row, size)

    def _open_block(self, group: object, row: LoggedRow, part: dict[int, Any], *, is_text: bool) -> Block:
        block = Block(tuple(part), group, is_text, row.automatic, row.own)
        for key in block.keys:
            earlier = self._owner.get(key)
            if earlier is not None:
                self._open.pop(earlier.group, None)
            self._owner[key] = block
        self._open[group] = block
        self.blocks.append(block)
        self._bytes += _opening_bytes(part)
        return block

    def _count_row(self, block: Block, row: LoggedRow, size: int) -> None:
        block.rows.append(row.number)
        block.steps.append(row.step)
        block.times.append(row.time_ns)
        self._bytes += size
        self.points += len(block.keys)


def _kinds(types: Types) -> bytes:
    return bytes(map(_KIND_OF.__getitem__, types))


def _group(row: LoggedRow, part: dict[int, Any], *, is_text: bool) -> object:
    """Return a key that rows of one block share. That of a whole numeric row needs no indices of names."""
    if not is_text and not row.own and len(part) == len(row.values):
        return (tuple(row.values), row.automatic)
    return (tuple(part), row.automatic, is_text, row.own)


def _row_bytes(part: dict[int, Any], *, is_text: bool) -> int:
    return ROW_OVERHEAD_BYTES + (sum(map(text_bytes, part.values())) if is_text else NUMBER_BYTES * len(part))


def _opening_bytes(part: dict[int, Any]) -> int:
    return BLOCK_OVERHEAD_BYTES + (KEY_BYTES + NAME_OVERHEAD_BYTES) * len(part)
