"""The columns of metrics in a store that reserves some names: no two metrics ever share a column.

A metric's *natural* column is its name, or another one if the store has that name itself: in CSV a metric
``step`` has the column ``step/local``. If another metric has that column already, a hash is added. Which
metric has a column follows from the order of the records alone, and is part of the backend's state; so a
repeated delivery uses the same columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping


class ColumnNames:
    """The columns of one run.

    ``owners`` holds by column the metric that has it, for columns that two metrics could have.
    """

    def __init__(
        self,
        natural: Callable[[str], str],
        owners: Mapping[str, str] | None = None,
        *,
        is_contested: Callable[[str], bool],
    ) -> None:
        self.owners = dict(owners or {})
        self._natural = natural
        self._is_contested = is_contested
        self._columns = {metric: column for column, metric in self.owners.items()}

    def of(self, metric: str) -> str:
        """Return the column of ``metric``."""
        known = self._columns.get(metric)
        if known is not None:
            return known
        column = self._natural(metric)
        if column == metric and not self._is_contested(metric):
            return metric
        if column in self.owners:
            digest = hashlib.sha256(metric.encode(errors="backslashreplace")).hexdigest()[:8]
            column = f"{column}-{digest}"
        self.owners[column] = metric
        self._columns[metric] = column
        return column


def contested_by(columns: Collection[str]) -> Callable[[str], bool]:
    """Return a function that is True for these ``columns``, which metrics of other names have."""
    return frozenset(columns).__contains__
