"""Converts rows, or a frame of pandas, polars or pyarrow, to one JSON document of columns and rows.

The rows are copied at the call, cell by cell but not deeper; a frame is copied as a whole. The uploading
thread converts the cells: numbers, texts, booleans and None stay as they are, an array of one element becomes
that element, and everything else becomes its text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tracker_client.staging.sources import SourceUnusable
from tracker_client.values.arguments import valid_text
from tracker_protocol import limits

CELL_BYTES = 64
"""The approximate memory of one cell."""
Rows = Iterable[Sequence[Any]]


@dataclass(frozen=True)
class Table:
    """A table as it was logged.

    Attributes:
        columns: names of the columns.
        rows: returns the rows; may be called once.
        row_count: the number of rows that are recorded.
        cut_from: the number of rows that were logged, if there were more; else 0.
    """

    columns: list[str]
    rows: Callable[[], Rows]
    row_count: int
    cut_from: int = 0

    @property
    def held_bytes(self) -> int:
        """The approximate memory of the table."""
        return self.row_count * len(self.columns) * CELL_BYTES

    def encode(self) -> bytes:
        """Encode the table as JSON: ``{"columns": [...], "data": [[...], ...]}``."""
        document = {"columns": self.columns, "data": [[_cell(value) for value in row] for row in self.rows()]}
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def make_table(columns: Any, data: Any) -> Table:
    """Take a table as it is now; ``columns`` may be None if ``data`` is a frame.

    Raises:
        SourceUnusable: the arguments are no table, or the table has too many columns.
    """
    if data is None and columns is not None and _frame(columns) is not None:
        columns, data = None, columns
    frame = _frame(data)
    if frame is not None:
        return _from_frame(columns, *frame)
    if columns is None or isinstance(columns, str):
        raise SourceUnusable("a table of rows needs the list of its columns' names; it is not recorded")
    return _from_rows(_names(columns), data)


def _names(columns: Any) -> list[str]:
    names = [valid_text(str(name)[: limits.TEXT_VALUE_MAX_CHARACTERS]) for name in columns]
    if not 1 <= len(names) <= limits.TABLE_COLUMNS_MAX:
        raise SourceUnusable(f"a table has 1 to {limits.TABLE_COLUMNS_MAX} columns, not {len(names)}")
    return names


def _most_rows(columns: int) -> int:
    return min(limits.TABLE_ROWS_MAX, limits.TABLE_CELLS_MAX // columns)


def _from_rows(columns: list[str], data: Any) -> Table:
    if data is None or isinstance(data, (str, bytes)):
        raise SourceUnusable(f"a {type(data).__name__} is not the rows of a table; it is not recorded")
    most = _most_rows(len(columns))
    rows = [_row(row, len(columns)) for row in islice(data, most)]
    total = len(data) if hasattr(data, "__len__") else len(rows)
    return Table(columns, lambda: rows, len(rows), total if total > len(rows) else 0)


def _row(row: Any, width: int) -> list[Any]:
    if isinstance(row, (str, bytes)) or not isinstance(row, Iterable):
        raise SourceUnusable(f"a row of a table is a list of {width} cells, not a {type(row).__name__}")
    cells = list(row)
    if len(cells) != width:
        raise SourceUnusable(
            f"a row has {len(cells)} cells and the table {width} columns; it is not recorded"
        )
    return cells


# ---- frames --------------------------------------------------------------------------------------


def _frame(data: Any) -> tuple[list[Any], int, Callable[[int], Rows]] | None:
    """Return a frame's column names, its number of rows, and a function that returns the first n rows.

    Returns None if ``data`` is no frame.
    """
    module = type(data).__module__.partition(".")[0]
    if module == "pandas" and hasattr(data, "itertuples"):
        return list(data.columns), len(data), lambda most: _copied_pandas(data, most)
    if module == "pyarrow" and hasattr(data, "column_names"):
        return list(data.column_names), data.num_rows, lambda most: _columns_of(data.slice(0, most))
    if module == "polars" and hasattr(data, "iter_rows"):
        return list(data.columns), len(data), lambda most: data.head(most).iter_rows()
    return None


def _copied_pandas(data: Any, most: int) -> Rows:
    rows: Rows = data.head(most).copy().itertuples(index=False, name=None)
    return rows


def _columns_of(table: Any) -> Rows:
    return zip(*table.to_pydict().values(), strict=True)


def _from_frame(columns: Any, names: list[Any], total: int, first: Callable[[int], Rows]) -> Table:
    wanted = _names(names if columns is None else columns)
    if len(wanted) != len(names):
        raise SourceUnusable(
            f"the frame has {len(names)} columns, but {len(wanted)} names are given for them"
        )
    count = min(total, _most_rows(len(wanted)))
    rows = first(count)
    return Table(wanted, lambda: rows, count, total if total > count else 0)


# ---- cells ---------------------------------------------------------------------------------------


def _cell(value: Any) -> Any:
    if value is None or type(value) in {bool, int, float}:
        return value
    if type(value) is str:
        return valid_text(value[: limits.TEXT_VALUE_MAX_CHARACTERS])
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "size", 1) != 0:
        try:
            single = item()
        except (TypeError, ValueError, RuntimeError):  # raised by numpy and torch for several elements
            single = value
        if type(single) in {bool, int, float, str}:
            return _cell(single)
    return valid_text(str(value)[: limits.TEXT_VALUE_MAX_CHARACTERS])
