"""Results of collectives that are still running: torch's ``AsyncCollectiveTensor``.

Such a tensor waits for its collective at its first use. ``log()`` never waits. On an accelerator the wait is
work of the script's own stream, so the tensor becomes its value there. On the CPU a thread waits.

torch forgets a collective as soon as anybody waits for it. A second waiter returns at once, perhaps before
the first one has the result. So :class:`Running` registers a work of its own behind the collective: whoever
waits for the tensor completes that work too, after the collective.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

ADVICE = "log tensor.item() once it is complete"
_STREAMED = ("nccl", "xccl", "rccl")
"""Backends whose wait is work of the current stream, and no wait of the thread.

The debugging mode of torch in which each wait of NCCL blocks its thread makes this one block too.
"""


class UnknownCollective(Exception):
    """A collective cannot be followed without a wait; the message is the reason, for the user."""


def is_collective(tensor: Any) -> bool:
    """Return True if ``tensor`` is the result of a collective that may still be running."""
    return type(tensor).__name__ == "AsyncCollectiveTensor"


def result_of(tensor: Any, torch: Any) -> Any:
    """Return the plain tensor, if reading it does not make this thread wait; else a :class:`Running`.

    Raises:
        UnknownCollective: neither is possible here.
    """
    if getattr(tensor, "completed", False):
        return tensor.elem
    if tensor.device.type != "cpu":
        if not _waits_on_stream(torch):
            raise UnknownCollective(f"waiting for this collective blocks the training; {ADVICE}")
        return tensor.trigger_wait()
    return Running(tensor.elem, torch)


def _waits_on_stream(torch: Any) -> bool:
    backend = str(torch.distributed.get_backend())
    return any(name in backend for name in _STREAMED)


class Running:
    """A collective on the CPU; its value once it is complete. Only the sender's thread uses it."""

    __slots__ = ("_complete", "_elem", "_failure", "_follower", "_torch", "_waiter")

    def __init__(self, elem: Any, torch: Any) -> None:
        self._elem = elem
        self._torch = torch
        self._complete = threading.Event()
        self._failure: BaseException | None = None
        self._waiter: threading.Thread | None = None
        # Kept: torch holds the work, but not the Python object that it calls.
        self._follower = _follower(self._complete)
        _c10d()._register_work(elem, self._follower)  # noqa: SLF001 - there is no public way

    def ready(self) -> bool:
        """Return True if :meth:`value` returns without waiting; begin to wait, on a thread, if nobody has."""
        if self._waiter is None and not self._complete.is_set():
            # A daemon thread: a collective that never completes must not keep the script alive.
            self._waiter = threading.Thread(target=self._wait, name="tracker-collective", daemon=True)
            try:
                self._waiter.start()
            except RuntimeError:  # the interpreter ends and starts no thread any more
                self._wait()
        return self._complete.is_set()

    def value(self) -> float:
        """Return the number; raise what the collective raised."""
        self._complete.wait()
        if self._failure is not None:
            raise self._failure
        number: float = self._elem.item()
        return number

    def _wait(self) -> None:
        try:
            self._torch.ops._c10d_functional.wait_tensor(self._elem)  # noqa: SLF001 - as torch's own wrapper does
        except BaseException as error:  # noqa: BLE001 - the thread's outermost frame; value() raises it
            self._failure = error
            self._complete.set()


def _c10d() -> Any:
    return sys.modules.get("torch._C._distributed_c10d")


def _follower(complete: threading.Event) -> Any:
    work = getattr(_c10d(), "PythonCallbackWork", None)
    if work is None or not hasattr(_c10d(), "_register_work"):
        raise UnknownCollective(f"this version of torch does not say when a collective is complete; {ADVICE}")

    def completed(_timeout: Any) -> bool:
        complete.set()
        return True

    return work(completed)
