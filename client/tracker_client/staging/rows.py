"""From calls to rows: which step each call means, and which calls make one row.

Pure and single-threaded. The sender adds the calls in their order.

* The step of a call is a valid ``step=``; else its key ``step``, if that is a whole number; else the client's
  next step. A key that names the step is taken out. Any other key ``step`` becomes ``step/local``.
* ``commit=False`` merges a call into the pending row. A committing call with the same step, or without one,
  completes that row. A call with another step, or with a name that the row has, or the end, closes the row as
  it is. So no value is overwritten.
* A completed row of calls joins the newest row of the stream if that has the same step and none of its names.
  Otherwise it begins the next row. Rows are numbered, from 0.
* *Attached* values (a model's statistics) join the row that the next committing call completes, as a call at
  that step would. At the end they join the pending row, or else are at the next step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tracker_client.staging.attachment import AttachedRow
from tracker_client.staging.buffer import NO_ITEMS, Entry, HeavyRow, StepShift
from tracker_client.values.histogram import Histogram
from tracker_client.values.refusals import Refusals
from tracker_client.values.snapshot import Row
from tracker_client.values.steps import KEPT_STEP_KEY, STEP_KEY, given_step, named_step
from tracker_protocol import limits

_STEP_MIN, _STEP_MAX = -limits.STEP_MAX, limits.STEP_MAX


class LoggedRow(NamedTuple):
    """A finished row, or the part of one that a call added.

    ``automatic`` is True if the client counted the step. ``own`` is True if the values are not to be
    aggregated across ranks. All parts of one row have its ``number``.
    """

    step: int
    time_ns: int
    values: Row
    automatic: bool
    items: Mapping[str, Histogram] = NO_ITEMS
    own: bool = False
    number: int = 0

    def with_part(self, part: LoggedRow) -> LoggedRow:
        """Return this part of a row together with a later one."""
        values, items = {**self.values, **part.values}, {**self.items, **part.items}
        return self._replace(time_ns=part.time_ns, values=values, items=items or NO_ITEMS)


class _Pending:
    """A row that waits for its commit. Its dicts are its own, so that further values can be added."""

    __slots__ = ("automatic", "items", "step", "time_ns", "values")

    def __init__(self, step: int, values: Row, *, automatic: bool) -> None:
        self.step = step
        self.time_ns = 0
        self.values = values
        self.automatic = automatic
        self.items: dict[str, Histogram] = {}

    def takes(self, step: int, values: Row, items: Mapping[str, Histogram]) -> bool:
        """Return True if a call with this step and these names belongs to the row."""
        return (
            step == self.step
            and _disjoint(self.values, values, items)
            and (not self.items or _disjoint(self.items, values, items))
        )

    def row(self) -> LoggedRow:
        """Return the row as it is."""
        return LoggedRow(self.step, self.time_ns, self.values, self.automatic, self.items or NO_ITEMS)


def _disjoint(names: Mapping[str, Any], values: Row, items: Mapping[str, Histogram]) -> bool:
    return names.keys().isdisjoint(values) and (not items or names.keys().isdisjoint(items))


class RowAssembler:
    """Makes rows of calls; keeps the next automatic step and the pending row."""

    def __init__(self, next_step: int, refusals: Refusals) -> None:
        self.next_step = next_step
        self._refusals = refusals
        self._pending: _Pending | None = None
        self._attached: LoggedRow | None = None
        self._newest = -1
        self._newest_step: int | None = None
        """The step of the newest row; None if no call may join that row."""
        self._newest_names: dict[str, Any] = {}
        """The names of the newest row, as keys."""
        self._newest_joined = -1

    @property
    def has_pending(self) -> bool:
        """True if a row waits for its commit."""
        return self._pending is not None

    @property
    def newest(self) -> int | None:
        """The number of the newest row, the pending row included; None before the first row."""
        pending = self._pending
        newest = self._newest + (pending is not None and not self._joins(pending.row()))
        return None if newest < 0 else newest

    @property
    def reached(self) -> int:
        """The step of the pending row, or else of the last row; 0 before the first row."""
        return self._pending.step if self._pending is not None else max(0, self.next_step - 1)

    def add(self, entry: Entry) -> list[LoggedRow]:
        """Add one call; return the rows that the call completes, at most three."""
        step, time_ns, payload, commit = entry
        try:
            waits = self._pending is not None or self._attached is not None or not commit
            if waits or type(payload) is not dict or STEP_KEY in payload:
                return self._add_any(step, time_ns, payload, commit=commit)
            if step is None:
                return [self._plain(self.next_step, time_ns, payload, automatic=True)]
            if _STEP_MIN <= step <= _STEP_MAX:
                return [self._plain(step, time_ns, payload, automatic=False)]
            return self._add_any(step, time_ns, payload, commit=True)
        except Exception as error:  # noqa: BLE001 - a key's hash and comparison are the user's code
            self._refusals.refuse("a row", f"assembling it raised {error!r}", values=len(payload))
            return []

    def skip(self, shift: StepShift) -> list[LoggedRow]:
        """Apply the effect of dropped rows on the step; return the pending row, which ends before them."""
        finished = self.close()
        if shift.absolute is not None:
            self.next_step = shift.absolute
        self.next_step += shift.plus
        self._newest_step = None
        return finished

    def close(self) -> list[LoggedRow]:
        """Close the pending row, and return it."""
        pending, self._pending = self._pending, None
        return [] if pending is None else [self._numbered(pending.row())]

    def end(self) -> list[LoggedRow]:
        """Close the pending row and the attached values, which wait for a call that will not follow."""
        finished = self.close()
        return finished + self._take_attached(finished[-1].step if finished else self.next_step)

    # ---- calls -----------------------------------------------------------------------------------

    def _plain(self, step: int, time_ns: int, values: Row, *, automatic: bool) -> LoggedRow:
        """Return the row of a committing call while nothing waits: the fast path."""
        self.next_step = step + 1
        if step == self._newest_step and self._newest_names.keys().isdisjoint(values):
            self._join(values)
        else:
            self._newest += 1
            self._newest_step, self._newest_names = step, values
        return LoggedRow(step, time_ns, values, automatic, NO_ITEMS, False, self._newest)

    def _add_any(
        self, step: int | None, time_ns: int, payload: Row | HeavyRow, *, commit: bool
    ) -> list[LoggedRow]:
        values, items = (payload.row, payload.items) if isinstance(payload, HeavyRow) else (payload, NO_ITEMS)
        if isinstance(payload, AttachedRow):
            self._attach(LoggedRow(0, time_ns, values, automatic=False, items=items, own=True))
            return []
        step = given_step(step, self._refusals)
        named = named_step(step, values)
        at = self.next_step if named is None else named
        if STEP_KEY in values:
            values = self._without_step_key(values, step, at)
        self.next_step = at + 1 if commit else at
        finished = [] if self._pending is None or self._pending.takes(at, values, items) else self.close()
        if commit and self._pending is None:
            return finished + self._completed(LoggedRow(at, time_ns, values, named is None, items))
        pending = self._pend(at, time_ns, values, items, automatic=named is None)
        if commit:
            self._pending = None
            return self._completed(pending.row())
        if len(pending.values) > limits.METRICS_PER_ROW_MAX:
            finished += self.close()
        return finished

    def _pend(
        self, step: int, time_ns: int, values: Row, items: Mapping[str, Histogram], *, automatic: bool
    ) -> _Pending:
        """Add a call to the pending row, or begin one, and return it."""
        pending = self._pending
        if pending is None:
            pending = self._pending = _Pending(step, dict(values), automatic=automatic)
        else:
            pending.values.update(values)
        if items:
            pending.items.update(items)
        pending.time_ns = time_ns
        return pending

    def _without_step_key(self, values: Row, step: int | None, at: int) -> Row:
        """Return ``values`` without the key ``step`` if it names this step; else with that key renamed."""
        named = named_step(None, values)
        if named == at:
            return {key: value for key, value in values.items() if key != STEP_KEY}
        given = f"step={step}" if step is not None else "no step="
        reason = f"it is kept as {KEPT_STEP_KEY!r}: a call with {given} is recorded at step {at}"
        self._refusals.warn_once(STEP_KEY, reason)
        if KEPT_STEP_KEY in values:
            return values
        return {KEPT_STEP_KEY if key == STEP_KEY else key: value for key, value in values.items()}

    # ---- rows ------------------------------------------------------------------------------------

    def _joins(self, row: LoggedRow) -> bool:
        """Return True if a completed call belongs to the newest row."""
        return row.step == self._newest_step and _disjoint(self._newest_names, row.values, row.items)

    def _join(self, names: Mapping[str, Any]) -> None:
        """Note that a call with ``names`` has joined the newest row."""
        if self._newest_joined == self._newest:
            self._newest_names.update(names)
        else:  # so far the names are those of a call's own row
            self._newest_joined = self._newest
            self._newest_names = {**self._newest_names, **names}

    def _numbered(self, row: LoggedRow) -> LoggedRow:
        """Return a completed call with the number of the row that it joins or begins."""
        if not self._joins(row):
            self._newest += 1
            self._newest_step, self._newest_names = row.step, {}
        self._join(row.values)
        if row.items:
            self._join(row.items)
        return row._replace(number=self._newest)

    # ---- attached values -------------------------------------------------------------------------

    def _completed(self, row: LoggedRow) -> list[LoggedRow]:
        """Return a completed call and the values attached to it, numbered."""
        return [self._numbered(row), *self._take_attached(row.step)]

    def _attach(self, row: LoggedRow) -> None:
        earlier = self._attached
        if earlier is not None:
            row = row._replace(values={**earlier.values, **row.values}, items={**earlier.items, **row.items})
        self._attached = row

    def _take_attached(self, step: int) -> list[LoggedRow]:
        attached, self._attached = self._attached, None
        return [] if attached is None else [self._numbered(attached._replace(step=step))]
