r"""The text of ``metrics.csv``: pure functions from record blocks to bytes.

One record is always one physical line. A line break inside a text value or a name is written as the two
characters ``\n`` or ``\r``. So a file can be widened byte by byte, by commas before each line feed. Fields
with commas or quotes are quoted as in RFC 4180.

Floats are written with the fewest digits that read back as the same float64, non-finite numbers as ``nan``,
``inf`` and ``-inf``; integers as ``3``, booleans as ``True``. A cell that a record does not have is empty.

The column ``step`` is the record's step; a metric of that name becomes ``step/local``. The column ``attempt``
is added with the run's second attempt, and is empty for records of the first. A metric of that name always
becomes ``attempt/local``. A function from metrics to columns, :func:`column_name` or one that keeps all
metrics apart (``column_names``), is given to each function that needs it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.decoding import numbers_of
from tracker_protocol.kinds import Kind

STEP_COLUMN = "step"
ATTEMPT_COLUMN = "attempt"
_OWN_COLUMNS = {STEP_COLUMN: "step/local", ATTEMPT_COLUMN: "attempt/local"}
"""The file's own columns, and for each the column of a metric that has its name."""

_ESCAPES = str.maketrans({"\n": "\\n", "\r": "\\r", "\0": "\\0"})
_encode = msgspec.json.Encoder().encode

ColumnOf = Callable[[str], str]
Substitute = tuple[int, bytes]
"""A column of a block and the text to write there instead of a number."""


@dataclass(frozen=True, slots=True)
class Header:
    """The columns of the file, ``step`` first, and the position of each."""

    columns: tuple[str, ...] = (STEP_COLUMN,)
    positions: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", {name: at for at, name in enumerate(self.columns)})

    def __len__(self) -> int:
        return len(self.columns)

    def extended(self, names: Iterable[str]) -> Header:
        """Return this header with the names that it lacks added at its end, in order."""
        new = [name for name in dict.fromkeys(names) if name not in self.positions]
        return Header((*self.columns, *new)) if new else self

    def line(self) -> bytes:
        """Return the header's line, with its line feed."""
        return b",".join(map(text_field, self.columns)) + b"\n"

    @staticmethod
    def parse(line: bytes) -> Header | None:
        """Return the header that :meth:`line` writes as exactly these bytes; None if there is none."""
        try:
            rows = list(csv.reader([line.decode()]))
        except (UnicodeDecodeError, csv.Error):
            return None
        if len(rows) != 1 or not rows[0] or rows[0][0] != STEP_COLUMN:
            return None
        header = Header(tuple(rows[0]))
        return header if header.line() == line else None


def column_name(metric: str) -> str:
    """Return the column of ``metric``, as it reads in the file."""
    return _OWN_COLUMNS.get(metric) or metric.translate(_ESCAPES)


def text_field(text: str) -> bytes:
    """Return one field of the file: without line breaks, and quoted if RFC 4180 requires quotes."""
    text = text.translate(_ESCAPES)
    if "," in text or '"' in text:
        text = '"' + text.replace('"', '""') + '"'
    return text.encode(errors="backslashreplace")


def is_contested(metric: str) -> bool:
    """Return True if ``metric`` is the column of a metric of another name."""
    return metric in _OWN_COLUMNS.values() or "\\" in metric


def block_columns(block: RecordBlock, column_of: ColumnOf = column_name) -> list[str]:
    """Return the columns that a block writes to, each once: of its numbers, its texts and its attempt."""
    columns = _metric_columns(block, column_of)
    return [*columns, ATTEMPT_COLUMN] if block.attempt > 1 else columns


def _metric_columns(block: RecordBlock, column_of: ColumnOf) -> list[str]:
    metrics = (*block.columns, *(cell.column for cell in block.texts))
    return list(dict.fromkeys(map(column_of, metrics)))


def format_block(block: RecordBlock, header: Header, column_of: ColumnOf = column_name) -> bytes:
    """Return the lines of a block's records; ``header`` must have all of :func:`block_columns`."""
    columns = sorted(_metric_columns(block, column_of), key=header.positions.__getitem__)
    arranged = _arranged(block, columns, column_of)
    substitutes = _substitutes(block, columns, arranged, column_of)
    arranged.values[~np.isfinite(arranged.values)] = 0.0
    numbers = numbers_of(arranged.values, arranged.kinds)
    rows = zip(block.steps.tolist(), numbers, strict=True)
    at = [header.positions[name] for name in columns]
    others = [b""] * len(header)
    if block.attempt > 1:
        others[header.positions[ATTEMPT_COLUMN]] = b"%d" % block.attempt
    if at and at[-1] - at[0] == len(at) - 1:
        return b"".join(_adjacent_lines(rows, substitutes, at[0], others))
    return b"".join(_scattered_lines(rows, substitutes, at, others))


class _Arranged(NamedTuple):
    """A block's values in the order of the file's columns, a mask of the cells that exist, and the kinds."""

    values: NDArray[np.float64]
    present: NDArray[np.bool_]
    kinds: NDArray[np.uint8] | None


def _arranged(block: RecordBlock, columns: Sequence[str], column_of: ColumnOf) -> _Arranged:
    source = {column_of(metric): at for at, metric in enumerate(block.columns)}
    matrix = np.zeros((len(block), len(columns)))
    present = np.zeros((len(block), len(columns)), np.bool_)
    there = [k for k, name in enumerate(columns) if name in source]
    taken = [source[columns[k]] for k in there]
    matrix[:, there] = block.values[:, taken]
    present[:, there] = True if block.valid is None else block.valid[:, taken]
    if block.kinds is None or not block.kinds.any():
        return _Arranged(matrix, present, None)
    kinds = np.zeros(matrix.shape, np.uint8)
    kinds[:, there] = block.kinds[:, taken]
    return _Arranged(matrix, present, kinds)


def _substitutes(
    block: RecordBlock, columns: Sequence[str], arranged: _Arranged, column_of: ColumnOf
) -> dict[int, list[Substitute]]:
    """Return by row the texts to write instead of numbers; the last one for a cell is written."""
    matrix, present, kinds = arranged
    found: dict[int, list[Substitute]] = {}
    if kinds is not None:
        for row, column in np.argwhere((kinds == Kind.BOOL) & present).tolist():
            found.setdefault(row, []).append((column, b"True" if matrix[row, column] else b"False"))
    for row, column in np.argwhere(~present).tolist():
        found.setdefault(row, []).append((column, b""))
    for row, column in np.argwhere(~np.isfinite(matrix) & present).tolist():
        found.setdefault(row, []).append((column, repr(float(matrix[row, column])).encode()))
    places = {name: k for k, name in enumerate(columns)}
    for cell in block.texts:
        text = (places[column_of(cell.column)], text_field(cell.value))
        found.setdefault(cell.row, []).append(text)
    return found


def _cells(values: list[float], substitutes: Sequence[Substitute]) -> list[bytes]:
    cells = _encode(values)[1:-1].split(b",")
    for column, text in substitutes:
        cells[column] = text
    return cells


def _adjacent_lines(
    rows: Iterable[tuple[int, list[float]]],
    substitutes: dict[int, list[Substitute]],
    first: int,
    others: Sequence[bytes],
) -> Iterator[bytes]:
    """Yield the lines of a block whose columns are neighbours, from position ``first`` on."""
    before = b"".join(b"," + other for other in others[1:first]) + b","
    after: bytes | None = None
    for row, (step, values) in enumerate(rows):
        if after is None:
            after = b"".join(b"," + other for other in others[first + len(values) :]) + b"\n"
        if row in substitutes:
            yield b"%d%b%b%b" % (step, before, b",".join(_cells(values, substitutes[row])), after)
        else:
            # One call for the whole row is about five times faster than repr() for each value.
            yield b"%d%b%b%b" % (step, before, _encode(values)[1:-1], after)


def _scattered_lines(
    rows: Iterable[tuple[int, list[float]]],
    substitutes: dict[int, list[Substitute]],
    at: Sequence[int],
    others: Sequence[bytes],
) -> Iterator[bytes]:
    """Yield the lines of a block that has other columns between its own; ``others`` holds their texts."""
    own = set(at)
    cells_of = (b",%b" if k in own else b"," + others[k] for k in range(1, len(others)))
    template = b"%d" + b"".join(cells_of) + b"\n"
    for row, (step, values) in enumerate(rows):
        cells = _cells(values, substitutes.get(row, ())) if own else []
        yield template % (step, *cells)


def widened(chunk: bytes, columns: int) -> bytes:
    """Return a chunk of whole or part lines with ``columns`` more empty cells at each line's end."""
    return chunk.replace(b"\n", b"," * columns + b"\n") if columns else chunk
