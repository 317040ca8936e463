"""The metrics of a recorded run: the rows of its ``metrics.csv``.

The file has a row for each record, with a cell for each column that the record has. Cells are read as they
look: ``3`` is an int, ``True`` a bool, ``0.5`` a float, anything else a text.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tracker_protocol.run_files import METRICS_FILE

Value = float | int | bool | str
Row = dict[str, Value]

STEP = "step"
_NO_METRICS = {STEP, "attempt"}
_AGGREGATES = ("mean", "min", "max", "std")
_SUFFIXES = (*_AGGREGATES, "count")
_INTEGER = re.compile(r"-?\d{1,19}")
_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class FinalValue:
    """The last value of a metric, the step of its record, and the aggregates across ranks, where recorded.

    ``value`` is the primary's own; None if only aggregates are recorded.
    """

    step: int | None
    value: Value | None = None
    mean: float | None = None
    min: float | None = None
    max: float | None = None
    std: float | None = None


def rows(directory: Path) -> Iterator[Row]:
    """Yield the rows in the order recorded, each with the columns that have a value; none without the file.

    A last line that is not written to its end yet is left out.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        file = (directory / METRICS_FILE).open(newline="", encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return
    with file:
        for cells in csv.DictReader(_whole_lines(file)):
            yield {name: _value(text) for name, text in cells.items() if name and text}


def final_values(directory: Path) -> dict[str, FinalValue]:
    """Return the last value of each metric by its name, in the order of the columns.

    Raises:
        OSError: the file cannot be read.
    """
    last: dict[str, tuple[Value, int | None]] = {}
    for row in rows(directory):
        step = _step_of(row)
        last.update((name, (value, step)) for name, value in row.items() if name not in _NO_METRICS)
    names = dict.fromkeys(_metric_of(name, last) for name in last)
    return {name: _final(name, last) for name in names}


def last_step(directory: Path) -> int | None:
    """Return the step of the last row, without reading the whole file; None if there is none.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with (directory / METRICS_FILE).open("rb") as file:
            header = file.readline()
            size = file.seek(0, io.SEEK_END)
            file.seek(max(len(header), size - _TAIL_BYTES))
            tail = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    names = next(csv.reader([header.decode(errors="replace")]), [])
    if STEP not in names:
        return None
    at = names.index(STEP)
    whole = tail[: tail.rfind(b"\n") + 1]
    for line in reversed(whole.decode(errors="replace").splitlines()):
        cells = next(csv.reader([line]), [])
        if len(cells) == len(names) and _INTEGER.fullmatch(cells[at]):
            return int(cells[at])
    return None


def _whole_lines(file: Iterable[str]) -> Iterator[str]:
    return (line for line in file if line.endswith("\n"))


def _value(text: str) -> Value:
    if _INTEGER.fullmatch(text):
        return int(text)
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text)
    except ValueError:
        return text


def _step_of(row: Row) -> int | None:
    step = row.get(STEP)
    return step if isinstance(step, int) else None


def _metric_of(name: str, last: Mapping[str, object]) -> str:
    """Return the metric that a column belongs to: an aggregate has the metric's name and a suffix."""
    base, _, suffix = name.rpartition("/")
    has_all = all(f"{base}/{one}" in last for one in _AGGREGATES)
    return base if base and suffix in _SUFFIXES and (base in last or has_all) else name


def _final(name: str, last: Mapping[str, tuple[Value, int | None]]) -> FinalValue:
    found = {one: last[f"{name}/{one}"] for one in _AGGREGATES if f"{name}/{one}" in last}
    value, step = last.get(name, (None, None))
    if step is None:
        step = max((at for _, at in found.values() if at is not None), default=None)
    numbers = {one: _number(value) for one, (value, _) in found.items()}
    return FinalValue(step, value, **numbers)


def _number(value: Value) -> float | None:
    return None if isinstance(value, str) else float(value)
