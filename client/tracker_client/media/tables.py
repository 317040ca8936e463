"""Converts rows, or a frame of pandas, polars or pyarrow, to one JSON document of columns and rows.

A row is a list of cells, or a dict by column. ``data`` may also be a dict of columns, or a ``wandb.Table``.
Rows of different lengths are recorded: missing cells are empty, and further cells have columns of their own.

The rows are copied at the call, cell by cell but not deeper; a frame is copied as a whole. The uploading
thread converts the cells. Numbers, texts, booleans and None stay as they are. An array of one element becomes
that element, a date or time its ISO text, a missing value None, and everything else its text. A cell that is
an image (of W&B, PIL or a figure) is taken at the call, as a content of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import Any

from tracker_client.media.images import ImageContent, image_content, is_image_object, number_paths
from tracker_client.staging.sources import Encoded, Source, SourceUnusable
from tracker_client.values.arguments import valid_text
from tracker_client.values.snapshot import is_masked
from tracker_client.values.wandb_objects import TableValue, from_wandb, is_of_wandb
from tracker_protocol import limits

CELL_BYTES = 64
"""The approximate memory of one cell."""
Rows = Iterable[Sequence[Any]]
_NO_NAMES = "a table of rows needs the list of its columns' names; it is not recorded"
_NOTHING: Any = object()
_PLAIN_CELLS = frozenset((bool, int, float, str, type(None)))
_MISSING = frozenset(("NaTType", "NAType"))


@dataclass
class ImageCell:
    """A cell that is an image; ``number`` is that of its content in the item, None without a content."""

    content: ImageContent
    caption: str | None
    number: int | None = None


@dataclass(frozen=True)
class Table:
    """A table as it was logged.

    Attributes:
        columns: names of the columns.
        rows: returns the rows; may be called once.
        row_count: the number of rows that are recorded.
        cut_from: the number of rows that were logged, if there were more; else 0.
        images: the cells that are images.
        notes: sentences for the user about what was changed.
    """

    columns: list[str]
    rows: Callable[[], Rows]
    row_count: int
    cut_from: int = 0
    images: list[ImageCell] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def held_bytes(self) -> int:
        """The approximate memory of the table."""
        images = sum(cell.content.held_bytes for cell in self.images)
        return self.row_count * len(self.columns) * CELL_BYTES + images

    def encode(self) -> bytes:
        """Encode the table as JSON: ``{"columns": [...], "data": [[...], ...]}``."""
        document = {"columns": self.columns, "data": [[_cell(value) for value in row] for row in self.rows()]}
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    def sources(self, refuse: Callable[[str], None]) -> Iterator[Source]:
        """Yield the table's content, then those of its images; ``refuse`` an image that cannot be read."""
        found: list[Source] = []
        for cell in self.images:
            source = cell.content.source
            try:
                if source.ready():
                    source.open()
            except SourceUnusable as unusable:
                refuse(f"an image of the table is left out: {unusable}")
                continue
            found.append(source)
            cell.number = len(found)
        number_paths(found)
        yield Encoded("table.json", self.encode)
        yield from found


def make_table(columns: Any, data: Any) -> Table:
    """Take a table as it is now; ``columns`` may be None if ``data`` is a frame, or its rows are dicts.

    Raises:
        SourceUnusable: the arguments are no table, or the table has too many columns.
    """
    if data is None and columns is not None and not _is_names(columns):
        columns, data = None, columns
    if is_of_wandb(data) and isinstance(table := from_wandb(data), TableValue):
        columns, data = table.columns if columns is None else columns, table.rows
    frame = _frame(data)
    if frame is not None:
        return _from_frame(columns, *frame)
    if isinstance(data, Mapping):
        columns, data = _columns_of_mapping(columns, data)
    return _from_rows(columns, data)


def _is_names(columns: Any) -> bool:
    """Return True if ``columns`` can be a list of names, and is no table itself."""
    if _frame(columns) is not None or is_of_wandb(columns) or isinstance(columns, Mapping):
        return False
    first = columns[0] if isinstance(columns, (list, tuple)) and columns else ""
    return not isinstance(first, (Mapping, list, tuple))


def _listed(columns: Any) -> list[Any]:
    if isinstance(columns, (str, bytes)) or not isinstance(columns, Iterable):
        raise SourceUnusable(_NO_NAMES)
    return list(columns)


def _names(columns: Any) -> list[str]:
    names = [valid_text(str(name)[: limits.TEXT_VALUE_MAX_CHARACTERS]) for name in columns]
    if not 1 <= len(names) <= limits.TABLE_COLUMNS_MAX:
        raise SourceUnusable(f"a table has 1 to {limits.TABLE_COLUMNS_MAX} columns, not {len(names)}")
    return names


def _most_rows(columns: int) -> int:
    return min(limits.TABLE_ROWS_MAX, limits.TABLE_CELLS_MAX // columns)


# ---- rows ----------------------------------------------------------------------------------------


def _columns_of_mapping(columns: Any, data: Mapping[Any, Any]) -> tuple[list[Any], Any]:
    """Return the names and the rows of a dict of columns; a shorter column ends with empty cells."""
    names = list(data) if columns is None else list(columns)
    lists = [data.get(name, ()) for name in names]
    if any(isinstance(cells, (str, bytes)) or not isinstance(cells, Iterable) for cells in lists):
        raise SourceUnusable(
            "a dict is a table if it has the list of cells of each column; it is not recorded"
        )
    return names, zip_longest(*lists)


def _from_rows(columns: Any, data: Any) -> Table:
    if data is None or isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise SourceUnusable(f"a {type(data).__name__} is not the rows of a table; it is not recorded")
    given = None if columns is None else _listed(columns)
    taken = _taken(data, given)
    keys = dict.fromkeys(key for row in taken if isinstance(row, Mapping) for key in row)
    if given is None and not keys:
        raise SourceUnusable(_NO_NAMES)
    by_key = list(keys) if given is None else given
    names = _names(by_key)
    cells = [_row(row, by_key) for row in taken]
    notes = _fitted(names, cells)
    if left_out := [str(key) for key in keys if key not in set(by_key)]:
        notes.append(f"cells of rows that have no column are left out: {', '.join(left_out[:5])}")
    most = _most_rows(len(names))
    total = max(len(taken), len(data) if isinstance(data, Sized) else 0)
    kept = cells[:most]
    images = _take_images(kept, notes)
    return Table(names, lambda: kept, len(kept), total if total > len(kept) else 0, images, notes)


def _taken(data: Iterable[Any], columns: Sequence[Any] | None) -> list[Any]:
    """Return the first rows of ``data``, as many as a table of this width may have."""
    rows = iter(data)
    first = next(rows, _NOTHING)
    if first is _NOTHING:
        return []
    width = len(columns) if columns is not None else len(first) if isinstance(first, Mapping) else 1
    return [first, *islice(rows, _most_rows(max(1, width)) - 1)]


def _row(row: Any, keys: Sequence[Any]) -> list[Any]:
    if isinstance(row, Mapping):
        return [row.get(key) for key in keys]
    if isinstance(row, (str, bytes)) or not isinstance(row, Iterable):
        raise SourceUnusable(f"a row of a table is a list or a dict of cells, not a {type(row).__name__}")
    return list(row)


def _fitted(names: list[str], rows: list[list[Any]]) -> list[str]:
    """Give all rows one cell for each column, and further columns to longer rows; return notes on that."""
    lengths = {len(row) for row in rows}
    if lengths <= {len(names)}:
        return []
    notes = []
    width = max(*lengths, len(names))
    if width > limits.TABLE_COLUMNS_MAX:
        raise SourceUnusable(f"a table has 1 to {limits.TABLE_COLUMNS_MAX} columns, not {width}")
    if width > len(names):
        notes.append(f"of {width} columns {len(names)} have names; the others are numbered")
        names.extend(f"column {number}" for number in range(len(names) + 1, width + 1))
    short = 0
    for row in rows:
        if len(row) < width:
            short += 1
            row.extend([None] * (width - len(row)))
    if short:
        notes.append(
            f"rows with fewer cells than the table has columns: {short}; their missing cells are empty"
        )
    return notes


def _take_images(rows: list[list[Any]], notes: list[str]) -> list[ImageCell]:
    """Replace each cell that is an image by an :class:`ImageCell`, with the image as it is now."""
    images: list[ImageCell] = []
    for row in rows:
        if _PLAIN_CELLS.issuperset(map(type, row)):
            continue
        for at, value in enumerate(row):
            if not is_image_object(value):
                continue
            if len(images) == limits.TABLE_IMAGES_MAX:
                notes.append(f"a table may have {limits.TABLE_IMAGES_MAX} images; further ones are left out")
                row[at] = None
                continue
            row[at] = cell = _image_cell(value, notes)
            if cell is not None:
                images.append(cell)
    return images


def _image_cell(value: Any, notes: list[str]) -> ImageCell | None:
    caption = None
    try:
        if is_of_wandb(value):
            caption = getattr(from_wandb(value), "caption", None)
        return ImageCell(image_content(value), caption)
    except SourceUnusable as unusable:
        notes.append(f"an image of the table is left out: {unusable}")
        return None


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
    """Convert a cell to JSON: a number, a text, a boolean or None, or an object for an image."""
    kind = type(value)
    if kind is str:
        return valid_text(value[: limits.TEXT_VALUE_MAX_CHARACTERS])
    if kind in _PLAIN_CELLS:
        return value
    if isinstance(value, ImageCell):
        return _image_object(value)
    if kind.__name__ in _MISSING or is_masked(value):
        return None
    single = _single(value)
    if type(single) in _PLAIN_CELLS:
        return _cell(single)
    return valid_text(str(value)[: limits.TEXT_VALUE_MAX_CHARACTERS])


def _image_object(cell: ImageCell) -> dict[str, Any] | None:
    if cell.number is None:
        return None
    caption = {} if cell.caption is None else {"caption": valid_text(str(cell.caption))}
    return {"image": cell.number, **caption}


def _single(value: Any) -> Any:
    """Return the number or text that ``value`` holds, a date's ISO text; else ``value`` itself."""
    if callable(getattr(value, "isoformat", None)):
        return value.isoformat()
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind in {"m", "M"}:  # numpy's own conversion gives a number of nanoseconds
        return None if str(value) == "NaT" else str(value)
    item = getattr(value, "item", None)
    if not callable(item) or getattr(value, "size", 1) == 0:
        return value
    try:
        single = item()
    except (TypeError, ValueError, RuntimeError):  # raised by numpy and torch for several elements
        return value
    # numpy.longdouble is no Python float.
    return float(single) if getattr(getattr(single, "dtype", None), "kind", "") == "f" else single
