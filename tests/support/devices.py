"""Devices for tests of values on an accelerator: a fake one, and CUDA where a machine has it.

Both run their work in order and later than it is enqueued: all of it waits while the device is *held*. The
fake device notes the threads that use it, and fails a test that reads a value on it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from pathlib import Path
from types import SimpleNamespace

from tracker_client.values.devices import copies as device_copies

HAS_CUDA = Path("/dev/nvidiactl").exists()
KINDS = ["fake", "cuda"] if HAS_CUDA else ["fake"]
_LONG_CYCLES = 2_000_000_000  # about a second on a present device


class FakeTensor:
    """A tensor on the fake device. ``memory`` is what the device has computed by now."""

    def __init__(self, memory, device):
        self.memory = memory
        self._device = device

    @property
    def device(self):
        return SimpleNamespace(type="cuda", index=0)

    @property
    def dtype(self):
        return self.memory.dtype

    @property
    def shape(self):
        return self.memory.shape

    def numel(self):
        return self.memory.numel()

    def element_size(self):
        return self.memory.element_size()

    def detach(self):
        return self

    def reshape(self, shape):
        return self._computed(lambda: self.memory.reshape(shape), self.memory.new_empty(shape))

    def new_ones(self, shape):
        return FakeTensor(self.memory.new_ones(shape), self._device)

    def fill_(self, value):
        self._device.enqueue(lambda: self.memory.fill_(value))

    def to(self, target, *, non_blocking=False):
        if target == "cpu":
            assert non_blocking, "log() waited for the device"
            arrives = self.memory.new_empty(self.memory.shape)
            self._device.enqueue(lambda: arrives.copy_(self.memory))
            return arrives
        return self._computed(lambda: self.memory.to(target), self.memory.to(target))

    def _computed(self, compute, like):
        result = FakeTensor(like.new_empty(like.shape), self._device)
        self._device.enqueue(lambda: result.memory.copy_(compute()))
        return result

    def _waits(self, *_):
        raise AssertionError("a thread waited for the device")

    item = tolist = cpu = numpy = __float__ = __array__ = _waits

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        """Take part in ``pinned.copy_(fake, non_blocking=True)``, and in nothing else."""
        target, source = arguments
        assert (function.__name__, keywords) == ("copy_", {"non_blocking": True})
        source._device.enqueue(lambda: target.copy_(source.memory))  # noqa: SLF001 - its device
        return target


class FakeDevice:
    """A device in this process, with the part of torch that serves it."""

    def __init__(self, monkeypatch):
        import torch

        self.threads = set()
        self.capturing = False
        self._held = False
        self._work = deque()
        cuda = SimpleNamespace(
            current_stream=lambda device=None: None, is_current_stream_capturing=self._is_capturing
        )
        self.torch = _FakeTorch(torch, cuda)
        monkeypatch.setitem(sys.modules, "torch", self.torch)
        monkeypatch.setattr(device_copies, "_pools", {})

    def tensor(self, value, **options):
        return FakeTensor(self.torch.tensor(value, **options), self)

    def enqueue(self, work):
        self.threads.add(threading.get_ident())
        self._work.append(work)
        if not self._held:
            self.finish_work()

    def hold(self):
        self._held = True

    def finish_work(self):
        self._held = False
        while self._work:
            self._work.popleft()()

    @contextlib.contextmanager
    def capture(self):
        self.capturing = True
        yield
        self.capturing = False

    def _is_capturing(self):
        self.threads.add(threading.get_ident())
        return self.capturing


class _FakeTorch:
    """torch, with the fake device as ``cuda`` and with pinned memory that needs no device."""

    def __init__(self, torch, cuda):
        self._torch = torch
        self.cuda = cuda
        self.Tensor = (torch.Tensor, FakeTensor)

    def empty(self, *arguments, pin_memory, **options):
        assert pin_memory
        return self._torch.empty(*arguments, **options)

    def __getattr__(self, name):
        return getattr(self._torch, name)


class CudaDevice:
    """A real CUDA device."""

    def __init__(self, monkeypatch):
        import torch

        self.torch = torch
        self.threads = {threading.get_ident()}  # CUDA does not tell
        torch.zeros(1, device="cuda").item()
        monkeypatch.setattr(device_copies, "_pools", {})

    def tensor(self, value, **options):
        return self.torch.tensor(value, device="cuda", **options)

    def hold(self):
        self.torch.cuda._sleep(_LONG_CYCLES)  # noqa: SLF001 - torch's own tests use it

    def finish_work(self):
        self.torch.cuda.synchronize()

    @contextlib.contextmanager
    def capture(self):
        stream = self.torch.cuda.Stream()
        stream.wait_stream(self.torch.cuda.current_stream())
        with self.torch.cuda.graph(self.torch.cuda.CUDAGraph(), stream=stream):
            yield


def make_device(kind, monkeypatch):
    return FakeDevice(monkeypatch) if kind == "fake" else CudaDevice(monkeypatch)
