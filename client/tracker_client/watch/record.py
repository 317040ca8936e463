"""One measurement of a model, from the statistics on its devices to metrics and histograms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tracker_client.staging.attachment import AttachedRow, Attachment
from tracker_client.staging.buffer import VALUE_BYTES
from tracker_client.values.devices.copies import ArrivingTensors, copy_tensors, has_streams
from tracker_client.values.histogram import Histogram
from tracker_client.values.snapshot import Row
from tracker_client.watch.statistics import BINS, Measured

STATISTICS = ("norm", "mean", "std", "min", "max")
NONFINITE = "nonfinite"
_NUMBER_BYTES = 8
_CONSTANT_HALF_WIDTH = 0.5
"""Half the width of a constant's histogram, as in numpy."""


class WatchRecord(Attachment):
    """The statistics that :func:`measure` has enqueued, for tensors that are named by ``names``."""

    __slots__ = ("_groups", "_names")

    def __init__(self, names: list[str], measured: list[Measured], torch: Any) -> None:
        tensors = sum(len(group.places) for group in measured)
        numbers = tensors * (BINS + len(STATISTICS) + 1)
        super().__init__(tensors * (len(STATISTICS) + 1), numbers * _NUMBER_BYTES // VALUE_BYTES)
        self._names = names
        self._groups = [(group.places, group.sizes, _begin_copies(group, torch)) for group in measured]

    def ready(self) -> bool:
        """Return True if all copies are complete."""
        return all(copies.ready() for _, _, copies in self._groups)

    def resolve(self) -> AttachedRow:
        """Return the metrics and histograms by name. Call this once :meth:`ready` has returned True."""
        row: Row = {}
        items: dict[str, Histogram] = {}
        # Sorted by place, hence in the order of the names; the groups have another order.
        found = sorted(one for group in self._groups for one in _rows(*group))
        for place, size, moments, counts, finite in found:
            name = self._names[place]
            if finite:
                row.update(zip((f"{name}/{one}" for one in STATISTICS), _unscaled(*moments), strict=True))
                items[name] = Histogram(_ends(moments[3], moments[4]), counts)
            row[f"{name}/{NONFINITE}"] = size - finite
        return AttachedRow(row, items)


class _Present:
    """Tensors that are read where they are: on the CPU, or on a device without streams."""

    def __init__(self, tensors: tuple[Any, ...]) -> None:
        self.tensors = tensors

    def ready(self) -> bool:
        return True


def _begin_copies(group: Measured, torch: Any) -> _Present | ArrivingTensors:
    results = [group.moments, group.counts, group.finite]
    if has_streams(group.moments.device.type, torch):
        return copy_tensors(results, torch)
    return _Present(tuple(results))


def _rows(
    places: list[int], sizes: list[int], copies: _Present | ArrivingTensors
) -> Iterator[tuple[int, int, list[float], list[int], int]]:
    moments, counts, finite = (tensor.tolist() for tensor in copies.tensors)
    return zip(places, sizes, map(list, zip(*moments, strict=True)), counts, finite, strict=True)


def _unscaled(norm: float, mean: float, std: float, low: float, high: float) -> tuple[float, ...]:
    scale = max(high, -low) or 1.0
    return norm * scale, mean, std * scale, low, high


def _ends(low: float, high: float) -> tuple[float, float]:
    if low < high:
        return low, high
    half = max(_CONSTANT_HALF_WIDTH, abs(low) * 2.0**-20)  # so that a float64 can hold both ends
    return low - half, high + half
