"""From calls to rows: which step each call means, and which calls make one row.

Pure and single-threaded; the sender feeds it the calls in their order.

* ``step=None`` takes the client's own next step; an explicit step sets that to step + 1.
* ``commit=False`` merges into the pending row, which a committing call with the same step (or with
  none) completes; a call with a different step, or the end, closes it as it is.
"""

from __future__ import annotations

from typing import NamedTuple

from tracker_client.buffer import Entry, StepShift, row_of
from tracker_client.values import Row
from tracker_protocol import limits


class LoggedRow(NamedTuple):
    """A finished row; ``automatic``: the step was counted by the client."""

    step: int
    time_ns: int
    values: Row
    automatic: bool


class RowAssembler:
    """Keeps the next automatic step and the pending row."""

    def __init__(self, next_step: int) -> None:
        self.next_step = next_step
        self._pending: LoggedRow | None = None

    @property
    def has_pending(self) -> bool:
        """Whether a row waits for its commit."""
        return self._pending is not None

    @property
    def reached(self) -> int:
        """The step that the rows have reached: the pending row's, else the last one's; 0 before any."""
        return self._pending.step if self._pending is not None else max(0, self.next_step - 1)

    def add(self, entry: Entry) -> list[LoggedRow]:
        """Take one call; the rows that it completes, at most two."""
        step, time_ns, _, commit = entry
        automatic = step is None
        at = self.next_step if step is None else step
        self.next_step = at + 1 if commit else at
        finished = []
        pending = self._pending
        if pending is not None and pending.step != at:
            finished.append(pending)
            pending = None
        row = LoggedRow(at, time_ns, row_of(entry), automatic)
        if pending is not None:
            row = LoggedRow(at, time_ns, {**pending.values, **row.values}, pending.automatic)
        self._pending = None
        if commit or len(row.values) > limits.METRICS_PER_ROW_MAX:
            finished.append(row)
        else:
            self._pending = row
        return finished

    def skip(self, shift: StepShift) -> list[LoggedRow]:
        """Take the effect of rows that were dropped; the pending row does not outlive them."""
        if shift.absolute is not None:
            self.next_step = shift.absolute
        self.next_step += shift.plus
        return self.close()

    def close(self) -> list[LoggedRow]:
        """Close the pending row, as at the end."""
        finished = [] if self._pending is None else [self._pending]
        self._pending = None
        return finished
