"""From calls to rows: which step each call means, and which calls make one row.

Pure and single-threaded. The sender adds the calls in their order.

* ``step=None`` means the client's next step. An explicit step sets the next step to step + 1.
* ``commit=False`` merges a call into the pending row. A committing call with the same step, or without one,
  completes that row. A call with another step, or the end, closes the row as it is.
* A completed call joins the newest row if that has the same step and none of the call's names. Otherwise the
  call begins the next row. Rows are numbered, from 0.
* *Attached* values (a model's statistics) have a row of their own. Its step is the step of the row that the
  next committing call makes. At the end, it is the step of the pending row, or else the next step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tracker_client.staging.attachment import AttachedRow
from tracker_client.staging.buffer import NO_ITEMS, Entry, HeavyRow, StepShift
from tracker_client.values.histogram import Histogram
from tracker_client.values.snapshot import Row
from tracker_protocol import limits


class LoggedRow(NamedTuple):
    """A finished row.

    ``automatic`` is True if the client counted the step. ``own`` is True if the values are not to be
    aggregated across ranks. A row of several calls has a ``LoggedRow`` for each call, all with one number.
    """

    step: int
    time_ns: int
    values: Row
    automatic: bool
    items: Mapping[str, Histogram] = NO_ITEMS
    own: bool = False
    number: int = 0

    def with_earlier(self, earlier: LoggedRow) -> LoggedRow:
        """Return this row, with the values and items of ``earlier`` that this row does not have."""
        values = {**earlier.values, **self.values}
        items = {**earlier.items, **self.items}
        return LoggedRow(self.step, self.time_ns, values, earlier.automatic, items, self.own)


class RowAssembler:
    """Makes rows of calls; keeps the next automatic step and the pending row."""

    def __init__(self, next_step: int) -> None:
        self.next_step = next_step
        self._pending: LoggedRow | None = None
        self._attached: LoggedRow | None = None
        self._newest = -1
        self._newest_step: int | None = None
        self._newest_names: set[object] = set()

    @property
    def has_pending(self) -> bool:
        """True if a row waits for its commit."""
        return self._pending is not None

    @property
    def newest(self) -> int | None:
        """The number of the newest row, the pending row included; None before the first row."""
        pending = self._pending
        newest = self._newest + (pending is not None and not self._joins(pending))
        return None if newest < 0 else newest

    @property
    def reached(self) -> int:
        """The step of the pending row, or else of the last row; 0 before the first row."""
        return self._pending.step if self._pending is not None else max(0, self.next_step - 1)

    def add(self, entry: Entry) -> list[LoggedRow]:
        """Add one call; return the rows that the call completes, at most three."""
        step, time_ns, payload, commit = entry
        values, items = (payload.row, payload.items) if isinstance(payload, HeavyRow) else (payload, NO_ITEMS)
        if isinstance(payload, AttachedRow):
            self._attach(LoggedRow(0, time_ns, values, automatic=False, items=items, own=True))
            return []
        automatic = step is None
        at = self.next_step if step is None else step
        self.next_step = at + 1 if commit else at
        finished = []
        pending = self._pending
        if pending is not None and pending.step != at:
            finished.append(self._numbered(pending))
            pending = None
        row = LoggedRow(at, time_ns, values, automatic, items)
        if pending is not None:
            row = row.with_earlier(pending)
        self._pending = None
        if commit:
            finished.append(self._numbered(row))
            finished += self._take_attached(at)
        elif len(row.values) > limits.METRICS_PER_ROW_MAX:
            finished.append(self._numbered(row))
        else:
            self._pending = row
        return finished

    def _joins(self, row: LoggedRow) -> bool:
        """Return True if a completed call belongs to the newest row."""
        if row.step != self._newest_step:
            return False
        return self._newest_names.isdisjoint(row.values) and self._newest_names.isdisjoint(row.items)

    def _numbered(self, row: LoggedRow) -> LoggedRow:
        """Return a completed call with the number of the row that it joins or begins."""
        if not self._joins(row):
            self._newest += 1
            self._newest_step, self._newest_names = row.step, set()
        self._newest_names.update(row.values, row.items)
        return row._replace(number=self._newest)

    def _attach(self, row: LoggedRow) -> None:
        self._attached = row if self._attached is None else row.with_earlier(self._attached)

    def _take_attached(self, step: int) -> list[LoggedRow]:
        attached, self._attached = self._attached, None
        if attached is None:
            return []
        self._newest += 1
        self._newest_step = None  # no call joins a row of statistics
        return [attached._replace(step=step, number=self._newest)]

    def skip(self, shift: StepShift) -> list[LoggedRow]:
        """Apply the effect of dropped rows on the step; return the pending row, which ends before them."""
        if shift.absolute is not None:
            self.next_step = shift.absolute
        self.next_step += shift.plus
        finished = self.close()
        self._newest_step = None
        return finished

    def close(self) -> list[LoggedRow]:
        """Close the pending row, and return it."""
        finished = [] if self._pending is None else [self._numbered(self._pending)]
        self._pending = None
        return finished

    def end(self) -> list[LoggedRow]:
        """Close the pending row and the attached values, which wait for a call that will not follow."""
        finished = self.close()
        return finished + self._take_attached(finished[-1].step if finished else self.next_step)
