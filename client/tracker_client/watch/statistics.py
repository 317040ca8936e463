"""Computes statistics of tensors on their device, without waiting for the device.

No number is read from a device: every bound, count and divisor stays a tensor. The histogram's kernel needs
its range beforehand, so the values are scaled to a constant range on the device. Tensors are the rows of
matrices. Small tensors share a matrix, padded with NaN, so that a hundred biases cost about as much as one. A
large tensor has its own matrix, which is processed in pieces, so that the extra memory is bounded. Half
precision is widened to float32 piece by piece.

Only finite values enter the statistics; the others are counted separately. ``std`` is the population's. A
constant tensor fills the middle bin. A complex tensor counts with its moduli, a sparse one with its stored
values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

BINS = 64
SMALL_VALUES_MAX = 1 << 14
"""Tensors of up to so many values share matrices, with others of up to four times their size."""
CHUNK_VALUES = 1 << 22
_OUTSIDE = -1.0
"""The bin of values that are not finite; the histogram leaves it out."""


class Unmeasurable(Exception):
    """A tensor has no statistics; the message is the reason."""


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
    """Enqueue the statistics of ``tensors``; leave out tensors without values.

    If a tensor cannot be measured, ``refuse`` is called with its place and the error; the others are
    measured.
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


# ---- the values of a tensor ----------------------------------------------------------------------


def _local(tensor: Any, torch: Any) -> Any:
    """Return the part that this rank holds, without communication; of a sparse tensor the stored values."""
    to_local = getattr(tensor, "to_local", None)
    tensor = (tensor if to_local is None else to_local()).detach()
    if tensor.device.type == "meta":
        raise Unmeasurable("it is on the device 'meta' and has no values")
    if tensor.layout == torch.sparse_coo:
        # coalesce() adds up values with the same index; on a device it would wait for their number.
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
    """Flatten the tensor in the order of its memory, so that a dense tensor is not copied."""
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
    """Return for each row the number of finite values, their sum, minimum and maximum."""
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
    """Statistics that need the extent of all pieces: norms, deviations from the mean, counts of the bins."""

    def __init__(self, torch: Any, mean: Any, low: Any, high: Any) -> None:
        self._torch = torch
        self._mean = mean.unsqueeze(1)
        largest = torch.maximum(high, -low)
        self._scale = torch.where(largest > 0, largest, 1.0).unsqueeze(1)
        # Each is divided before the subtraction: the difference of two large numbers may be infinite.
        self._low = (low / BINS).unsqueeze(1)
        self._width = (high / BINS).unsqueeze(1) - self._low
        self._constant = self._width <= 0

    def of(self, piece: Any) -> tuple[Any, Any, Any]:
        """Return for each row the norm of the values, that of their deviations, the counts of the bins."""
        others = piece.isfinite().logical_not_()
        norm = self._norm(piece / self._scale, others)
        deviation = self._norm((piece - self._mean) / self._scale, others)
        bins = (piece / BINS).sub_(self._low).div_(self._width).mul_(BINS)
        bins = bins.masked_fill_(self._constant, BINS / 2).floor_().clamp_(0.0, BINS - 1.0)
        return norm, deviation, self._counts(bins.masked_fill_(others, _OUTSIDE))

    def _norm(self, values: Any, others: Any) -> Any:
        return self._torch.linalg.vector_norm(values.masked_fill_(others, 0.0), dim=1)

    def _counts(self, bins: Any) -> Any:
        """Count the values in each bin of each row; row r's bins are numbered from r × (BINS + 1)."""
        torch, rows = self._torch, bins.shape[0]
        width = BINS + 1  # one for _OUTSIDE
        first = torch.arange(rows, device=bins.device, dtype=bins.dtype).unsqueeze(1) * width - _OUTSIDE
        places, total = (bins + first).reshape(-1), rows * width
        return self._counter(places, total).view(rows, width).narrow(1, 1, BINS)

    def _counter(self, places: Any, total: int) -> Any:
        torch = self._torch
        if places.device.type == "cpu":
            return _count_directly(places, total, torch)
        if torch.are_deterministic_algorithms_enabled():
            # histc refuses to run in deterministic mode, though counts do not depend on the order of
            # additions.
            return _count_by_sorting(places, total, torch)
        return _count_by_histogram(places, total, torch)


def _count_directly(places: Any, total: int, torch: Any) -> Any:
    """Count how often each whole number below ``total`` occurs; on a device other than the CPU this waits."""
    return torch.bincount(places.to(torch.int64), minlength=total)


def _count_by_sorting(places: Any, total: int, torch: Any) -> Any:
    edges = torch.arange(total + 1, device=places.device, dtype=places.dtype)
    return torch.searchsorted(places.sort().values, edges).diff()


def _count_by_histogram(places: Any, total: int, torch: Any) -> Any:
    return torch.histc(places + 0.5, bins=total, min=0.0, max=float(total)).to(torch.int64)
