"""Makes blocks of records, as backends take them, of rows as they were logged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracker_client.staging.rows import LoggedRow
from tracker_client.values.refusals import Refusals
from tracker_daemon.aggregation.values.record import RecordBlock, RecordTimes, TextCell
from tracker_protocol import limits
from tracker_protocol.kinds import ROUNDED_FROM, ROUNDING, Kind

_ATTEMPT = 1
_KINDS = {int: Kind.INT, bool: Kind.BOOL}


class _Record(NamedTuple):
    step: int
    time_ns: int
    numbers: dict[str, float]
    texts: dict[str, str]


class BlockMaker:
    """Makes one run's blocks; numbers its records, and lets their times rise within a step."""

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals
        self._ordinal = 1
        self._times = RecordTimes()
        self._names: dict[object, str] = {}

    def blocks(self, rows: Iterable[LoggedRow]) -> Iterator[RecordBlock]:
        """Yield the rows in their order; consecutive rows with the same numeric columns share a block.

        ``rows`` may be parts of rows: consecutive parts with one number make one row.
        Waits for values that are still on their device. A value that cannot be read, or whose name cannot be
        recorded, is refused and left out.
        """
        whole = (reduce(LoggedRow.with_part, parts) for _, parts in groupby(rows, attrgetter("number")))
        records = (record for record in map(self._record, whole) if record.numbers or record.texts)
        for columns, group in groupby(records, key=lambda record: tuple(record.numbers)):
            yield self._block(columns, list(group))

    def _block(self, columns: tuple[str, ...], records: Sequence[_Record]) -> RecordBlock:
        first = self._ordinal
        self._ordinal += len(records)
        return RecordBlock(
            first,
            _ATTEMPT,
            columns,
            np.array([record.step for record in records], np.int64),
            np.array([record.time_ns for record in records], np.int64),
            np.array([list(record.numbers.values()) for record in records], np.float64),
            None,
            tuple(
                TextCell(at, name, text)
                for at, record in enumerate(records)
                for name, text in record.texts.items()
            ),
            _kinds(records),
        )

    def _record(self, row: LoggedRow) -> _Record:
        numbers: dict[str, float] = {}
        texts: dict[str, str] = {}
        for name, value in row.values.items():
            if not self._is_name(name):
                continue
            try:
                if isinstance(value, str):
                    texts[name] = value
                else:
                    number = value if isinstance(value, (float, int)) else value.value()
                    if abs(float(number)) >= ROUNDED_FROM and isinstance(number, int):
                        self._refusals.warn_once(name, ROUNDING)
                    numbers[name] = number
            except OverflowError:
                self._refusals.refuse(name, "an integer is too large for a float64; it is not recorded")
            except Exception as error:  # noqa: BLE001 - the device's library may raise anything
                self._refusals.refuse(name, f"reading it from its device raised {error!r}")
        return _Record(row.step, self._times.next(row.step, row.time_ns), numbers, texts)

    def _is_name(self, name: object) -> bool:
        reason = self._names.get(name)
        if reason is None:
            reason = self._names[name] = self._why_no_name(name)
        if reason:
            self._refusals.refuse(name, f"{reason}; it is not recorded")
        return not reason

    def _why_no_name(self, name: object) -> str:
        """Return why ``name`` cannot be a metric's name; "" if it can."""
        most = limits.METRIC_NAME_MAX_BYTES
        if not isinstance(name, str):
            return f"a metric's name is a text, not a {type(name).__name__}"
        if not 1 <= (size := len(name.encode(errors="surrogatepass"))) <= most:
            return f"a metric's name has 1 to {most} bytes, not {size}"
        if len(self._names) >= limits.METRICS_PER_RUN_MAX:
            return f"a run may have at most {limits.METRICS_PER_RUN_MAX} names"
        return ""


def _kinds(records: Sequence[_Record]) -> NDArray[np.uint8] | None:
    """Return the kinds of the records' numbers; None if all are floats."""
    kinds = [[_KINDS.get(type(number), Kind.FLOAT) for number in one.numbers.values()] for one in records]
    return np.array(kinds, np.uint8) if any(map(any, kinds)) else None
