"""The code with which the interpreter is about to end, as far as an exit handler can know it.

If a script never calls ``finish``, an exit handler does. The interpreter does not pass its exit code to exit
handlers. An uncaught exception leaves its type behind. ``sys.exit`` leaves nothing; so, once there is a
tracker, a function replaces ``sys.exit`` that notes the code and then calls the original. One case stays
unseen: ``raise SystemExit(1)`` outside of a ``with`` block.
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
    """Note the codes of ``sys.exit`` from now on."""
    if _watching.acquire(blocking=False):
        sys.exit = _noting(sys.exit)


def _noting(original: Any) -> Any:
    @functools.wraps(original)
    def noting(status: Any = None, /) -> NoReturn:
        # In another thread, sys.exit ends that thread only.
        if threading.current_thread() is threading.main_thread():
            _noted[:] = [exit_code_for(status)]
        original(status)
        raise AssertionError("sys.exit() has returned")

    return noting


def exit_code_so_far() -> int:
    """Return the code of the exception or of the ``sys.exit`` that is ending the script, else 0."""
    kind = getattr(sys, "last_type", None)  # CPython 3.12 still sets it, beside last_exc
    if kind is not None:
        return INTERRUPTED if issubclass(kind, KeyboardInterrupt) else 1
    return _noted[0] if _noted else 0
