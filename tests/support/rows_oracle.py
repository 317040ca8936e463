"""The rules of rows, cells and order in executable form: the records that a run must have.

Slow and plain on purpose, and apart from the product's code. It knows no timing: whatever the ranks' and the
daemons' timing, the records must pass :func:`check_rows`, and ``metrics.csv`` :func:`check_csv`.

Not modelled: lost ranks, partial and late cells, names that end as an aggregate's, further recorded ranks,
texts of ranks other than the primary.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracker_protocol import limits

Value = float | int | bool | str
Values = dict[str, Value]
AGGREGATES = ("mean", "min", "max", "std")


@dataclass(frozen=True)
class Call:
    """One call of ``log()``, with its arguments."""

    values: Mapping[str, Value]
    step: Any = None
    commit: bool | None = True


@dataclass(frozen=True)
class Row:
    """One row of a rank."""

    step: int
    values: Values


@dataclass(frozen=True)
class Cell:
    """The values of one metric at one step and occurrence, by rank."""

    metric: str
    step: int
    values: dict[int, float]

    def aggregates(self) -> dict[str, float]:
        numbers = [float(self.values[rank]) for rank in sorted(self.values)]
        mean = math.fsum(numbers) / len(numbers)
        std = math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / len(numbers))
        return {"mean": mean, "min": min(numbers), "max": max(numbers), "std": std}


# ---- a rank's calls ------------------------------------------------------------------------------


def as_step(value: Any) -> int | None:
    """The step that a value names, if it names one."""
    if isinstance(value, (bool, str)):
        return None
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole and abs(value) <= limits.STEP_MAX else None


def closed_calls(calls: Sequence[Call], next_step: int = 0) -> Iterator[Row]:
    """Yield committed calls, the uncommitted ones merged in, and rows that were closed without a commit."""
    open_step, open_values = 0, None
    for call in calls:
        values = dict(call.values)
        step, key = as_step(call.step), as_step(values.get("step"))
        at = next(found for found in (step, key, next_step) if found is not None)
        if "step" in values:
            kept = values.pop("step")
            if key != at:
                values["step/local"] = kept
        if open_values is not None and (open_step != at or open_values.keys() & values.keys()):
            yield Row(open_step, open_values)
            open_values = None
        open_step, open_values = at, {**(open_values or {}), **values}
        next_step = at
        if call.commit is None or call.commit:
            yield Row(open_step, open_values)
            open_values = None
            next_step = at + 1
    if open_values is not None:
        yield Row(open_step, open_values)


def rows_of(calls: Sequence[Call]) -> list[Row]:
    """Return a rank's rows: a call joins the newest row if that has its step and none of its names."""
    rows: list[Row] = []
    for call in closed_calls(calls):
        if rows and rows[-1].step == call.step and not rows[-1].values.keys() & call.values.keys():
            rows[-1].values.update(call.values)
        else:
            rows.append(Row(call.step, dict(call.values)))
    return [row for row in rows if row.values]


# ---- the ranks' cells ----------------------------------------------------------------------------


def occurrences(rows: Sequence[Row]) -> Iterator[tuple[int, str, int]]:
    """Yield (index of the row, metric, occurrence) for each number.

    A metric's repeats at a step are counted. A step that goes back begins a new count for each step up to the
    highest so far: the occurrence is the number of earlier passes that have reached the step.
    """
    highest: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        for metric, value in row.values.items():
            if isinstance(value, str):
                continue
            passes = highest[metric]
            occurrence = sum(reached >= row.step for reached in passes)
            passes[occurrence : occurrence + 1] = [row.step]
            yield index, metric, occurrence


class Run:
    """What the ranks of a run logged."""

    def __init__(self, ranks: Mapping[int, Sequence[Call]], primary: int) -> None:
        self.primary = primary
        self.rows = {rank: rows_of(calls) for rank, calls in ranks.items()}
        self.rows.setdefault(primary, [])
        self.cells: dict[tuple[str, int, int], Cell] = {}
        self.cell_of: dict[tuple[int, int, str], Cell] = {}
        """By rank, row and metric."""
        self.reporters: dict[str, set[int]] = defaultdict(set)
        for rank, rows in self.rows.items():
            for index, metric, occurrence in occurrences(rows):
                step = rows[index].step
                cell = self.cells.setdefault((metric, step, occurrence), Cell(metric, step, {}))
                cell.values[rank] = rows[index].values[metric]
                self.cell_of[rank, index, metric] = cell
                self.reporters[metric].add(rank)
        self.homeless = {(c.metric, c.step) for c in self.cells.values() if primary not in c.values}
        """Metrics and steps with a cell that the primary did not report."""

    def own_names(self) -> set[str]:
        """Return the names of the primary's values."""
        return {name for row in self.rows[self.primary] for name in row.values}

    def sole_names(self, rank: int) -> set[str]:
        """Return the metrics that this rank alone reported."""
        return {metric for metric, who in self.reporters.items() if who == {rank}}

    def aggregated(self) -> set[str]:
        """Return the metrics of several ranks."""
        return {metric for metric, who in self.reporters.items() if len(who) > 1}


# ---- the file ------------------------------------------------------------------------------------


def parsed(text: str) -> Value:
    """Return a cell of the file, with its kind."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def read_csv(path: Path) -> list[Row]:
    """Return the file's rows, without empty cells."""
    with path.open(newline="") as file:
        return [
            Row(int(row.pop("step")), {name: parsed(text) for name, text in row.items() if text})
            for row in csv.DictReader(file)
        ]


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)


def alike(one: Value, other: Value) -> bool:
    """Return True if two values are of one kind, and equal but for the rounding of sums."""
    if isinstance(one, float) and isinstance(other, float):
        return _close(one, other)
    return type(one) is type(other) and one == other


def _same(some: Values, others: Values) -> bool:
    return some.keys() == others.keys() and all(alike(some[name], others[name]) for name in some)


def check_csv(path: Path, ranks: Mapping[int, Sequence[Call]], primary: int = 0) -> list[str]:
    """Compare a run's ``metrics.csv`` with the calls of its ranks; return what is wrong, in words."""
    return check_rows(read_csv(path), ranks, primary)


def check_rows(found: Sequence[Row], ranks: Mapping[int, Sequence[Call]], primary: int = 0) -> list[str]:
    """Compare the records of a run with the calls of its ranks; return what is wrong, in words."""
    run = Run(ranks, primary)
    return [
        *_wrong_in_primary_rows(run, found),
        *_wrong_in_sole_rows(run, found),
        *_wrong_in_totals(run, found),
    ]


def _wrong_in_primary_rows(run: Run, found: Sequence[Row]) -> Iterator[str]:
    """The primary's rows are whole, in the order logged, none twice; a record's aggregates are of its row."""
    own, wanted = run.own_names(), run.rows[run.primary]
    records = [record for record in found if own & record.values.keys()]
    if len(records) != len(wanted):
        yield f"{len(records)} rows have values of the primary, instead of {len(wanted)}"
    for index, (want, record) in enumerate(zip(wanted, records, strict=False)):
        have = {name: value for name, value in record.values.items() if name in own}
        if record.step != want.step or not _same(have, want.values):
            yield f"row {index} of the primary is {have} at step {record.step}, instead of {want}"
            return
        yield from _wrong_aggregates(run, index, record)


def _wrong_aggregates(run: Run, index: int, record: Row) -> Iterator[str]:
    for metric in run.aggregated():
        cell = run.cell_of.get((run.primary, index, metric))
        for name in AGGREGATES:
            value = record.values.get(f"{metric}/{name}")
            if value is None:
                continue
            if cell is None and (metric, record.step) not in run.homeless:
                yield f"row {index} of the primary has {metric}/{name}, and did not log {metric}"
            elif cell is not None and not _close(value, cell.aggregates()[name]):
                yield f"row {index} of the primary has {metric}/{name} = {value} of other values"


def _wrong_in_sole_rows(run: Run, found: Sequence[Row]) -> Iterator[str]:
    """The values of another rank's own metrics in one record are of one row of that rank."""
    for rank in run.rows.keys() - {run.primary}:
        sole = run.sole_names(rank)
        at_step: dict[int, list[Row]] = defaultdict(list)
        for row in run.rows[rank]:
            at_step[row.step].append(row)
        for record in found:
            have = {name: value for name, value in record.values.items() if name in sole}
            if have and not any(_holds(row, have) for row in at_step[record.step]):
                yield f"{have} at step {record.step} are of no one row of rank {rank}"


def _holds(row: Row, values: Values) -> bool:
    return all(name in row.values and alike(value, row.values[name]) for name, value in values.items())


def _wrong_in_totals(run: Run, found: Sequence[Row]) -> Iterator[str]:
    """Each aggregate, and each value of a sole reporter, is there exactly once, with its step."""
    wanted: dict[tuple[str, int], list[float]] = defaultdict(list)
    own, aggregated = run.own_names(), run.aggregated()
    for cell in run.cells.values():
        if cell.metric in aggregated:
            for name, value in cell.aggregates().items():
                wanted[f"{cell.metric}/{name}", cell.step].append(value)
        elif cell.metric not in own:
            wanted[cell.metric, cell.step] += map(float, cell.values.values())
    names, have = {name for name, _ in wanted}, defaultdict(list)
    for record in found:
        for name in names & record.values.keys():
            have[name, record.step].append(float(record.values[name]))
    for place in sorted(wanted.keys() | have.keys()):
        want, has = sorted(wanted.get(place, ())), sorted(have.get(place, ()))
        if len(want) != len(has) or not all(map(alike, want, has)):
            yield f"{place[0]} at step {place[1]} has the values {has[:5]}, instead of {want[:5]}"
