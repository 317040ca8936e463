"""What callers pass, made usable: steps, exit codes, timeouts, configurations."""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Mapping
from typing import Any


def step_number(step: Any) -> int:
    """A step as an integer: of any integer type, or a float without a fraction.

    Raises:
        TypeError: it is none.
    """
    try:
        return operator.index(step)
    except TypeError:
        number = float(step)
        if number.is_integer():
            return int(number)
        raise


def json_object(value: Any) -> Any:
    """``value`` with texts for keys, all the way down; as for ``json``, what is no container stays."""
    if isinstance(value, Mapping):
        return {str(key): json_object(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_object(item) for item in value]
    return value


def exit_code_for(code: Any) -> int:
    """What a process exits with for ``code``, within what the protocol carries."""
    if isinstance(code, int):
        return max(-(2**31), min(2**31 - 1, int(code)))
    return 0 if code is None else 1


def exit_code_of(error: BaseException | None) -> int:
    """The exit code that ``error`` would end the interpreter with."""
    if isinstance(error, SystemExit):
        return exit_code_for(error.code)
    return 0 if error is None else 1


def bounded_seconds(timeout: Any, default_s: float) -> float:
    """``timeout`` as seconds that a lock takes; ``default_s`` where it is no number."""
    try:
        seconds = float(timeout)
    except (TypeError, ValueError, OverflowError):
        return default_s
    return default_s if math.isnan(seconds) else min(max(0.0, seconds), threading.TIMEOUT_MAX / 2)
