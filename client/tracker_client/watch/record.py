"""One measurement of a model, from the statistics on its devices to metrics and histograms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tracker_client.staging.attachment import AttachedRow, Attachment
from tracker_client.staging.buffer import VALUE_BYTES
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

    __slots__ = ("_copies", "_events", "_names")

    def __init__(self, names: list[str], measured: list[Measured], torch: Any) -> None:
        tensors = sum(len(group.places) for group in measured)
        numbers = tensors * (BINS + len(STATISTICS) + 1)
        super().__init__(tensors * (len(STATISTICS) + 1), numbers * _NUMBER_BYTES // VALUE_BYTES)
        self._names = names
        # The copies to pinned memory are enqueued on the script's own stream: behind the work that computes
        # the statistics.
        self._copies = [(group, [_copy_begun(one, torch) for one in _tensors(group)]) for group in measured]
        devices = {group.moments.device for group in measured}
        self._events = [_event(device, torch) for device in devices if _has_streams(device, torch)]

    def ready(self) -> bool:
        """Return True if all copies are complete."""
        return all(event.query() for event in self._events)

    def resolve(self) -> AttachedRow:
        """Return the metrics and histograms by name; wait for the copies if necessary."""
        for event in self._events:
            event.synchronize()
        row: Row = {}
        items: dict[str, Histogram] = {}
        # Sorted by place, hence in the order of the names; the groups have another order.
        found = sorted(one for group, copies in self._copies for one in _rows(group, copies))
        for place, size, moments, counts, finite in found:
            name = self._names[place]
            if finite:
                row.update(zip((f"{name}/{one}" for one in STATISTICS), _unscaled(*moments), strict=True))
                items[name] = Histogram(_ends(moments[3], moments[4]), counts)
            row[f"{name}/{NONFINITE}"] = size - finite
        return AttachedRow(row, items)


def _tensors(group: Measured) -> tuple[Any, Any, Any]:
    return group.moments, group.counts, group.finite


def _has_streams(device: Any, torch: Any) -> bool:
    return device.type != "cpu" and hasattr(getattr(torch, device.type, None), "current_stream")


def _copy_begun(tensor: Any, torch: Any) -> Any:
    # On a device without streams there is no event to wait for; there the sender's read waits.
    return tensor.to("cpu", non_blocking=True) if _has_streams(tensor.device, torch) else tensor


def _event(device: Any, torch: Any) -> Any:
    return getattr(torch, device.type).current_stream(device).record_event()


def _rows(group: Measured, copies: list[Any]) -> Iterator[tuple[int, int, list[float], list[int], int]]:
    moments, counts, finite = copies
    return zip(group.places, group.sizes, moments.t().tolist(), counts.tolist(), finite.tolist(), strict=True)


def _unscaled(norm: float, mean: float, std: float, low: float, high: float) -> tuple[float, ...]:
    scale = max(high, -low) or 1.0
    return norm * scale, mean, std * scale, low, high


def _ends(low: float, high: float) -> tuple[float, float]:
    if low < high:
        return low, high
    half = max(_CONSTANT_HALF_WIDTH, abs(low) * 2.0**-20)  # so that a float64 can hold both ends
    return low - half, high + half
