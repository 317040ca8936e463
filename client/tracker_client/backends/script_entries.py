"""Entries of the daemon's outbox for classes of the script, their acknowledgements, and direct calls."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tracker_protocol.kinds import Kind

_INTEGER_END = 2.0**63


@dataclass(frozen=True)
class DeliveredRows:
    """n records with the same c columns, from the entry's row ``first_row`` on, encoded as in the protocol.

    Attributes:
        first_row: the index of the first record within the entry.
        columns: c names.
        steps: n int64, little-endian.
        values: n × c float64, little-endian, row by row.
        valid: n × c bytes, 0 where a record has no such value; empty if every record has every value.
        texts: for each text its row, counted from ``first_row``, its column and the text.
        kinds: n × c bytes: 0 for a float, 1 for an integer, 2 for a boolean; empty if all are floats.
    """

    first_row: int
    columns: tuple[str, ...]
    steps: bytes
    values: bytes
    valid: bytes
    texts: tuple[tuple[int, str, str], ...]
    kinds: bytes = b""

    def __len__(self) -> int:
        return len(self.steps) // 8

    def rows(self, skip: int = 0) -> Iterator[tuple[int, dict[str, float | str]]]:
        """Yield each record's step and its values by name, without the first ``skip`` records."""
        steps, values, width = _numbers("q", self.steps), self._values(), len(self.columns)
        texts: dict[int, dict[str, str]] = {}
        for row, column, value in self.texts:
            texts.setdefault(row, {})[column] = value
        for row in range(skip, len(self)):
            cells: dict[str, float | str] = dict(
                zip(self.columns, values[row * width : (row + 1) * width], strict=True)
            )
            if self.valid:
                present = zip(self.columns, self.valid[row * width : (row + 1) * width], strict=True)
                cells = {name: cells[name] for name, is_present in present if is_present}
            yield steps[row], {**cells, **texts.get(row, {})}

    def _values(self) -> list[float]:
        """Return all values, each of the kind that was logged; integers beyond 64 bits stay floats."""
        values = _numbers("d", self.values).tolist()
        for at, kind in enumerate(self.kinds):
            if kind == Kind.BOOL or (kind == Kind.INT and abs(values[at]) < _INTEGER_END):
                values[at] = bool(values[at]) if kind == Kind.BOOL else int(values[at])
        return values


@dataclass(frozen=True)
class DeliveredConfig:
    """A part of the run's configuration; ``document`` is a JSON object to merge into it."""

    document: str


@dataclass(frozen=True)
class DeliveredEnd:
    """The end of the run for one class; ``exit_code`` is 0 unless the run has failed."""

    exit_code: int = 0


@dataclass(frozen=True)
class DeliveredEntry:
    """A part of an outbox entry for one class; ``more`` is True if further parts of the entry follow."""

    backend: str
    epoch: int
    entry: int
    more: bool
    content: DeliveredRows | DeliveredConfig | DeliveredEnd | None

    @property
    def through_row(self) -> int:
        """The number of the entry's rows up to the end of this part; other contents count as one row."""
        content = self.content
        return content.first_row + len(content) if isinstance(content, DeliveredRows) else 1


@dataclass(frozen=True)
class TakenEntry:
    """The acknowledgement of one entry.

    Attributes:
        backend: the class's name.
        epoch: the journal epoch of the entry.
        entry: the entry's number; 0 if the message only reports that the class is closed.
        refused_records: the records that the class raised for.
        problem: the last exception of the class, for messages.
        closed: True if the class takes no further entry.
    """

    backend: str
    epoch: int = 0
    entry: int = 0
    refused_records: int = 0
    problem: str = ""
    closed: bool = False


@dataclass(frozen=True)
class DirectCall:
    """A call of the tracker that the class receives directly, not through the daemon, such as a table."""

    method: str
    arguments: tuple[Any, ...]
    named: Mapping[str, Any] = field(default_factory=dict)


def _numbers(kind: str, data: bytes) -> array[Any]:
    numbers: array[Any] = array(kind)
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
