"""With which code the interpreter is about to end, as far as that can be told while it does.

A script that never calls ``finish`` is finished at its exit, and the interpreter does not tell the handlers
there what it ends with. An uncaught exception leaves its type behind; ``sys.exit`` leaves nothing, so it is
replaced, once there is a tracker, by one that takes note and then does the same. What remains unseen is a
``raise SystemExit(1)`` outside of a ``with`` block.
"""

from __future__ import annotations

import functools
import sys
import threading
from typing import Any, NoReturn

from tracker_client.values.arguments import INTERRUPTED, exit_code_for

_noted: list[int] = []
_watching = threading.Lock()


def watch_exit() -> None:
    """Take note of ``sys.exit`` from now on."""
    if _watching.acquire(blocking=False):
        sys.exit = _noting(sys.exit)


def _noting(original: Any) -> Any:
    @functools.wraps(original)
    def noting(status: Any = None, /) -> NoReturn:
        # In another thread it ends that thread only.
        if threading.current_thread() is threading.main_thread():
            _noted[:] = [exit_code_for(status)]
        original(status)
        raise AssertionError("sys.exit() has returned")

    return noting


def exit_code_so_far() -> int:
    """The code of the exception or of the ``sys.exit`` that is ending the script, else 0."""
    kind = getattr(sys, "last_type", None)  # of CPython 3.12 too, beside last_exc
    if kind is not None:
        return INTERRUPTED if issubclass(kind, KeyboardInterrupt) else 1
    return _noted[0] if _noted else 0
