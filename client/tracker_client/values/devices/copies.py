"""Copies values from a device to memory that this process can read, without a wait for the device.

Only the thread that logs calls the device's library. That thread enqueues each copy behind the work that
computes the value. Every other thread looks at memory alone: a query of an event by another thread would
break a graph's capture, and would hold the interpreter while the device hangs.

A number is copied as a float64 into one of DEVICE_NUMBERS_MAX *slots* of pinned memory. The slot holds
NOT_YET until the copy has arrived; no computation gives that NaN, since it is a signalling one. Larger
tensors have pinned memory of their own; a number that is enqueued behind them shows that they have arrived.

Releasing pinned memory calls the device's library too. So a pool holds all of it, and a later call of the
thread that logs releases what is no longer used. Nothing here takes a lock: each step is one operation on a
deque.
"""

from __future__ import annotations

import ctypes
import struct
import weakref
from collections import deque
from typing import Any

from tracker_client.values.refusals import UnusableValue
from tracker_protocol import limits

NOT_YET = 0xFFF3_5EED_0B5E_11E5
"""The bits of a slot whose number has not arrived: a signalling NaN."""
_SWEPT_AT_ONCE = 64
_RELEASED_AT_ONCE = 4

_pools: dict[str, PinnedPool] = {}
"""For each type of device; made by the first value on such a device."""


def has_streams(device_type: str, torch: Any) -> bool:
    """Return True if copies from devices of this type can be enqueued."""
    return device_type != "cpu" and hasattr(getattr(torch, device_type, None), "current_stream")


def refuse_capture(device_type: str, torch: Any) -> None:
    """Raise UnusableValue if this thread captures a graph of the device's work."""
    check = getattr(getattr(torch, device_type, None), "is_current_stream_capturing", None)
    if check is not None and check():
        raise UnusableValue(
            "while a graph is captured, a value on the device has no number yet; log it after the replay"
        )


def copy_number(tensor: Any, torch: Any) -> ArrivingNumber:
    """Enqueue the copy of a tensor of one element, on a device with streams.

    Raises:
        UnusableValue: this thread captures a graph, or too many values are on their way.
    """
    refuse_capture(tensor.device.type, torch)
    return _pool(tensor.device.type, torch).copy_number(tensor, torch)


def copy_tensors(tensors: list[Any], torch: Any) -> ArrivingTensors:
    """Enqueue the copies of tensors on one device with streams; raises as :func:`copy_number`."""
    refuse_capture(tensors[0].device.type, torch)
    return _pool(tensors[0].device.type, torch).copy_tensors(tensors, torch)


def _pool(device_type: str, torch: Any) -> PinnedPool:
    pool = _pools.get(device_type)
    return _pools.setdefault(device_type, PinnedPool(torch)) if pool is None else pool


class ArrivingNumber:
    """A number on its way from a device into a slot."""

    __slots__ = ("_bits", "_kind", "_memory", "_slot")

    def __init__(self, memory: ctypes.Array[ctypes.c_uint64], slot: int, kind: type) -> None:
        self._memory = memory
        self._slot = slot
        self._kind = kind
        self._bits: int | None = None  # set before the slot is used again

    def ready(self) -> bool:
        """Return True if the number has arrived."""
        return self._bits is not None or self._memory[self._slot] != NOT_YET

    def value(self) -> float:
        """Return the number, with its kind; it must have arrived."""
        bits = self._memory[self._slot]
        bits = bits if self._bits is None else self._bits  # read in this order: the slot may be used again
        assert bits != NOT_YET, "a number is read once it has arrived"
        (number,) = struct.unpack("d", struct.pack("Q", bits))
        return self._kind(number)  # type: ignore[no-any-return]

    def settle(self) -> int | None:
        """Keep the number apart from its slot, and return the slot; None if it has not arrived."""
        bits = self._memory[self._slot]
        if bits == NOT_YET:
            return None
        self._bits = bits
        return self._slot


class ArrivingTensors:
    """Copies of tensors, on their way from one device. ``tensors`` may be read once they have arrived.

    Whatever views this memory must not outlive this object.
    """

    def __init__(self, tensors: tuple[Any, ...], last: ArrivingNumber) -> None:
        self.tensors = tensors
        self._last = last

    def ready(self) -> bool:
        """Return True if all tensors have arrived."""
        return self._last.ready()


class PinnedPool:
    """The pinned memory of one type of device: slots for numbers, and what larger copies hold."""

    def __init__(self, torch: Any) -> None:
        count = limits.DEVICE_NUMBERS_MAX
        with torch.inference_mode(mode=False):  # else nothing may be copied into it outside of that mode
            self._numbers = torch.empty(count, dtype=torch.float64, device="cpu", pin_memory=True)
        address = self._numbers.data_ptr()
        if not address:
            raise UnusableValue("no pinned memory can be had for it here; log its item()")
        self._memory = (ctypes.c_uint64 * count).from_address(address)
        self._free = deque(range(count))
        self._arriving: deque[ArrivingNumber] = deque()
        self._held: deque[tuple[tuple[Any, ...], weakref.ref[ArrivingTensors], ArrivingNumber]] = deque()

    def copy_number(self, tensor: Any, torch: Any) -> ArrivingNumber:
        """Enqueue the copy of ``tensor`` into a free slot."""
        number = tensor.detach().reshape(()).to(torch.float64)
        slot = self._free_slot()
        self._memory[slot] = NOT_YET
        self._numbers[slot].copy_(number, non_blocking=True)
        arriving = ArrivingNumber(self._memory, slot, _kind_of(tensor.dtype, torch))
        self._arriving.append(arriving)
        return arriving

    def copy_tensors(self, tensors: list[Any], torch: Any) -> ArrivingTensors:
        """Enqueue the copies of ``tensors``, and behind them a number that shows their arrival."""
        self._release_unused()
        copies = tuple(tensor.detach().to("cpu", non_blocking=True) for tensor in tensors)
        last = self.copy_number(tensors[-1].new_ones(()), torch)
        arriving = ArrivingTensors(copies, last)
        self._held.append((copies, weakref.ref(arriving), last))
        return arriving

    def _free_slot(self) -> int:
        if not self._free:
            self._sweep()
        try:
            return self._free.popleft()
        except IndexError:
            raise UnusableValue(
                f"{limits.DEVICE_NUMBERS_MAX} values are on their way from the device already"
            ) from None

    def _sweep(self) -> None:
        """Free the slots of numbers that have arrived, among the oldest."""
        for _ in range(min(_SWEPT_AT_ONCE, len(self._arriving))):
            try:
                oldest = self._arriving.popleft()
            except IndexError:  # another thread sweeps too
                return
            slot = oldest.settle()
            if slot is None:
                self._arriving.append(oldest)
            else:
                self._free.append(slot)

    def _release_unused(self) -> None:
        """Release the memory of tensors that have arrived and that nobody reads any more, of the oldest."""
        for _ in range(min(_RELEASED_AT_ONCE, len(self._held))):
            try:
                held = self._held.popleft()
            except IndexError:  # another thread does the same
                return
            if held[1]() is not None or not held[2].ready():
                self._held.append(held)


def _kind_of(dtype: Any, torch: Any) -> type:
    if dtype == torch.bool:
        return bool
    return float if dtype.is_floating_point else int
