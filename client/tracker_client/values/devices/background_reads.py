"""Reads arrays that only their library can read, on a thread of its own.

Such a read may wait for a device that hangs. So the sender never reads such an array: it asks for the read,
and looks whether the result is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


class _Reader:
    """The thread; the first read starts it."""

    def __init__(self) -> None:
        self._reads: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._is_started = False

    def submit(self, read: Callable[[], None]) -> None:
        """Have ``read`` called. Only one thread may submit while the reader is not started."""
        if not self._is_started:
            try:
                threading.Thread(target=self._main, name="tracker-device-reader", daemon=True).start()
            except RuntimeError:  # the interpreter ends and starts no thread any more
                read()
                return
            self._is_started = True
        self._reads.put(read)

    def _main(self) -> None:
        while True:
            self._reads.get()()


_reader = _Reader()


class ComputedArray:
    """An array of one element that nothing will change any more, and that may still be computed."""

    __slots__ = ("_array", "_error", "_is_read", "_submitted", "_value")

    def __init__(self, array: Any) -> None:
        self._array = array
        self._submitted = False
        self._is_read = False
        self._value = 0.0
        self._error: Exception | None = None

    def ready(self) -> bool:
        """Return True if the array is read; raise what its library raises."""
        if not self._submitted:
            is_ready = getattr(self._array, "is_ready", None)
            if is_ready is not None and not is_ready():
                return False
            self._submitted = True
            _reader.submit(self._read)
        return self._is_read

    def value(self) -> float:
        """Return the number, or raise what the read raised."""
        assert self._is_read, "an array is read before its number is used"
        if self._error is not None:
            raise self._error
        return self._value

    def _read(self) -> None:
        try:
            self._value = self._array.item()
        except Exception as error:  # noqa: BLE001 - the outermost frame of a read; the library may raise anything
            self._error = error
        self._array = None
        self._is_read = True
