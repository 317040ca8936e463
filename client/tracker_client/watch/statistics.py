"""Statistics of tensors, computed where the tensors are, without waiting for them.

Nothing here asks a device for a number: every bound, count and divisor stays a tensor. What the
histogram's kernel must know beforehand, its range, is made a constant by moving the values on the
device. Tensors are the rows of matrices: small ones share one, filled up with NaN, so that a hundred
biases cost about what one does; a large one has a matrix of its own, gone through in pieces, so that the
memory needed beside it is bounded. Half precision is widened to float32 piece by piece.

Only finite values count; the others are counted apart. ``std`` is the population's. A constant tensor
fills the middle bin. Of a complex tensor the moduli are taken, of a sparse one the stored values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

BINS = 64
SMALL_VALUES_MAX = 1 << 14
"""Tensors up to this size are gathered in matrices, with others of up to four times their size."""
CHUNK_VALUES = 1 << 22
_OUTSIDE = -1.0
"""Where the histogram does not look."""


class Unmeasurable(Exception):
    """A tensor has no statistics; the message says why."""


@dataclass(frozen=True)
class Measured:
    """The statistics of n tensors, still on their device.

    ``moments`` is (5, n): norm, mean, std, min, max; norm and std are divided by the largest modulus,
    so that no square overflows or vanishes. ``counts`` is (n, BINS), int64. ``finite`` is (n,), int64.
    """

    places: list[int]
    sizes: list[int]
    moments: Any
    counts: Any
    finite: Any


def measure(tensors: Iterable[Any], torch: Any, refuse: Callable[[int, Exception], None]) -> list[Measured]:
    """Enqueue the statistics of ``tensors``; those without values are left out.

    A tensor that cannot be measured is named to ``refuse`` by its place, and the others are measured.
    """
    groups: dict[object, list[tuple[int, Any]]] = {}
    for place, tensor in enumerate(tensors):
        try:
            values = _flat(_real(_local(tensor, torch)))
            size = values.numel()
            if size:
                groups.setdefault(_group(place, values, size, torch), []).append((place, values))
        except Exception as error:  # noqa: BLE001 - a subclass of tensors may raise anything; the others are measured
            refuse(place, error)
    return [_measure_group(group, torch) for group in groups.values()]


def _group(place: int, values: Any, size: int, torch: Any) -> object:
    if size > SMALL_VALUES_MAX:
        return place
    return values.device, _wide(values, torch), size.bit_length() // 2


def _wide(values: Any, torch: Any) -> Any:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


# ---- which values --------------------------------------------------------------------------------


def _local(tensor: Any, torch: Any) -> Any:
    """The part that this rank holds, which takes no communication; the stored values of a sparse tensor."""
    to_local = getattr(tensor, "to_local", None)
    tensor = (tensor if to_local is None else to_local()).detach()
    if tensor.device.type == "meta":
        raise Unmeasurable("it is on the device 'meta' and has no values")
    if tensor.layout == torch.sparse_coo:
        # Adding up what several look-ups share must know their number, for which a device is waited for.
        joined = tensor.coalesce() if tensor.device.type == "cpu" else tensor
        return joined._values()  # noqa: SLF001 - values() refuses what is not coalesced
    if tensor.layout != torch.strided:
        raise Unmeasurable(f"its layout is {tensor.layout}")
    if tensor.is_quantized:
        raise Unmeasurable("it is quantized")
    return tensor


def _real(tensor: Any) -> Any:
    return tensor.abs() if tensor.is_complex() else tensor


def _flat(tensor: Any) -> Any:
    """All values in one dimension, in the order of the memory, so that no copy is made of a dense tensor."""
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda dimension: -strides[dimension])
    return tensor.permute(order).reshape(-1)


# ---- one matrix ----------------------------------------------------------------------------------


def _measure_group(group: list[tuple[int, Any]], torch: Any) -> Measured:
    places, rows = [place for place, _ in group], [values for _, values in group]
    wide = _wide(rows[0], torch)
    if len(rows) == 1:
        matrix = rows[0].unsqueeze(0)
    else:
        widened = [row.to(wide) for row in rows]
        matrix = torch.nn.utils.rnn.pad_sequence(widened, batch_first=True, padding_value=float("nan"))
    pieces = matrix.split(CHUNK_VALUES, dim=1)
    finite, total, low, high = _joined(torch, [_extent(piece.to(wide)) for piece in pieces])
    mean = total / finite
    spread = _Spread(torch, mean, low, high)
    found = [spread.of(piece.to(wide)) for piece in pieces]
    norms, deviations, counts = (torch.stack(column) for column in zip(*found, strict=True))
    norm = torch.linalg.vector_norm(norms, dim=0)
    std = torch.linalg.vector_norm(deviations, dim=0) / finite.sqrt()
    moments = torch.stack((norm, mean, std, low, high))
    return Measured(places, [len(row) for row in rows], moments, counts.sum(0), finite.to(torch.int64))


def _extent(piece: Any) -> list[Any]:
    """For each row how many values are finite, their sum, minimum and maximum."""
    others = piece.isfinite().logical_not_()
    low = piece.masked_fill(others, float("inf")).amin(1)
    high = piece.masked_fill(others, float("-inf")).amax(1)
    finite = piece.shape[1] - others.sum(1)
    return [finite.to(piece.dtype), piece.masked_fill(others, 0.0).sum(1), low, high]


def _joined(torch: Any, extents: list[list[Any]]) -> list[Any]:
    if len(extents) == 1:
        return extents[0]
    finite, total, low, high = (torch.stack(column) for column in zip(*extents, strict=True))
    return [finite.sum(0), total.sum(0), low.amin(0), high.amax(0)]


class _Spread:
    """What needs the extent of all pieces: norms, deviations from the mean, bins between the extremes."""

    def __init__(self, torch: Any, mean: Any, low: Any, high: Any) -> None:
        self._torch = torch
        self._mean = mean.unsqueeze(1)
        largest = torch.maximum(high, -low)
        self._scale = torch.where(largest > 0, largest, 1.0).unsqueeze(1)
        # Divided before they are subtracted: the difference of two large numbers may be infinite.
        self._low = (low / BINS).unsqueeze(1)
        self._width = (high / BINS).unsqueeze(1) - self._low
        self._constant = self._width <= 0

    def of(self, piece: Any) -> tuple[Any, Any, Any]:
        """For each row the norm of the values, the norm of their deviations and the counts of the bins."""
        others = piece.isfinite().logical_not_()
        norm = self._norm(piece / self._scale, others)
        deviation = self._norm((piece - self._mean) / self._scale, others)
        bins = (piece / BINS).sub_(self._low).div_(self._width).mul_(BINS)
        bins = bins.masked_fill_(self._constant, BINS / 2).floor_().clamp_(0.0, BINS - 1.0)
        return norm, deviation, self._counts(bins.masked_fill_(others, _OUTSIDE))

    def _norm(self, values: Any, others: Any) -> Any:
        return self._torch.linalg.vector_norm(values.masked_fill_(others, 0.0), dim=1)

    def _counts(self, bins: Any) -> Any:
        """How often each bin occurs in each row; the rows' bins lie behind each other."""
        torch, rows = self._torch, bins.shape[0]
        width = BINS + 1  # one for what is outside
        first = torch.arange(rows, device=bins.device, dtype=bins.dtype).unsqueeze(1) * width - _OUTSIDE
        places, total = (bins + first).reshape(-1), rows * width
        return self._counter(places, total).view(rows, width).narrow(1, 1, BINS)

    def _counter(self, places: Any, total: int) -> Any:
        torch = self._torch
        if places.device.type == "cpu":
            return _count_directly(places, total, torch)
        if torch.are_deterministic_algorithms_enabled():
            # Counts do not depend on the order in which they are added up, but histc says they might.
            return _count_by_sorting(places, total, torch)
        return _count_by_histogram(places, total, torch)


def _count_directly(places: Any, total: int, torch: Any) -> Any:
    """How often each whole number below ``total`` occurs. Elsewhere than on the CPU this waits."""
    return torch.bincount(places.to(torch.int64), minlength=total)


def _count_by_sorting(places: Any, total: int, torch: Any) -> Any:
    edges = torch.arange(total + 1, device=places.device, dtype=places.dtype)
    return torch.searchsorted(places.sort().values, edges).diff()


def _count_by_histogram(places: Any, total: int, torch: Any) -> Any:
    return torch.histc(places + 0.5, bins=total, min=0.0, max=float(total)).to(torch.int64)
