"""Values that join a row which the script has not logged yet.

A model's statistics are measured within the training step, between two calls of ``log()``, and belong to the
step of the next call. They pass through the staging buffer like a call. They wait there, and then in the row
assembler, for the next call that commits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from tracker_client.staging.buffer import HeavyRow
from tracker_client.values.histogram import Histogram
from tracker_client.values.snapshot import Row


class AttachedRow(HeavyRow):
    """Values and items for the row of the next call that commits. They are never aggregated across ranks."""

    __slots__ = ()

    def __init__(self, row: Row, items: Mapping[str, Histogram]) -> None:
        super().__init__(row, len(row), deferred=False, items=items)


class Attachment(ABC, HeavyRow):
    """A future :class:`AttachedRow`, with ``points`` values that are still on a device.

    ``weight`` is the weight of these values, in values of a plain row.
    """

    __slots__ = ("_points",)

    def __init__(self, points: int, weight: int) -> None:
        super().__init__({}, weight, deferred=True)
        self._points = points

    @property
    def points(self) -> int:
        """The number of its values."""
        return self._points

    @abstractmethod
    def ready(self) -> bool:
        """Return True if the values can be read without a wait."""

    @abstractmethod
    def resolve(self) -> AttachedRow:
        """Return the values. Call this once :meth:`ready` has returned True."""
