"""What joins a row that the script has not logged yet.

A model's statistics are measured within the training step, between two calls of ``log()``, and belong to
the step that the next one names. They go through the staging buffer like a call, and wait there, and
then with the rows' assembler, for the next call that commits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from tracker_client.staging.buffer import HeavyRow
from tracker_client.values.histogram import Histogram
from tracker_client.values.refusals import Refusals
from tracker_client.values.snapshot import Row


class AttachedRow(HeavyRow):
    """Values and items for the row of the next call that commits; this rank's own, never aggregated."""

    __slots__ = ()

    def __init__(self, row: Row, items: Mapping[str, Histogram]) -> None:
        super().__init__(row, len(row), deferred=False, items=items)


class Attachment(ABC, HeavyRow):
    """An :class:`AttachedRow` that is on its way from a device; ``weight`` is that of ``points`` values."""

    __slots__ = ("_points",)

    def __init__(self, points: int, weight: int) -> None:
        super().__init__({}, weight, deferred=True)
        self._points = points

    @property
    def points(self) -> int:
        """How many values it will have."""
        return self._points

    @abstractmethod
    def ready(self) -> bool:
        """Whether :meth:`resolve` returns without waiting."""

    @abstractmethod
    def resolve(self) -> AttachedRow:
        """The values; waits for them if need be."""

    def resolve_or_refuse(self, refusals: Refusals) -> AttachedRow:
        """Return the values; if their device fails, refuse them and return an empty row."""
        try:
            return self.resolve()
        except Exception as error:  # noqa: BLE001 - the device's library may raise anything
            reason = f"reading a model's statistics from their device raised {error!r}"
            refusals.refuse("watch()", reason, values=self.points)
            return AttachedRow({}, {})
