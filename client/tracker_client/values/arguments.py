"""Converts arguments of callers: exit codes, timeouts, values as JSON, valid texts."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any

from tracker_client.values.secret_names import mask_secrets
from tracker_protocol import limits

JSON_DEPTH_MAX = 16
INTERRUPTED = 130
"""The exit code of a process that Ctrl-C has ended: 128 + the number of SIGINT."""


def strict_json(value: Any, depth: int = JSON_DEPTH_MAX) -> Any:
    """Convert ``value`` to strict JSON.

    A value that is not JSON becomes a text with its secrets masked. A set becomes a sorted list. A number
    becomes a text if it is not finite or has more than 64 bits. Containers below ``depth`` levels become
    texts.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return valid_text(value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, Mapping) and depth:
        return {valid_text(str(key)): strict_json(item, depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)) and depth:
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [strict_json(item, depth - 1) for item in items]
    return valid_text(mask_secrets(str(value)[: limits.TEXT_VALUE_MAX_CHARACTERS]))


def valid_text(text: str) -> str:
    """Replace the characters of ``text`` that UTF-8 cannot encode, as names of files may contain."""
    return text.encode("utf-8", "replace").decode()


def exit_code_for(code: Any) -> int:
    """Return the exit code of a process for ``code``, the argument of ``sys.exit``; a signed 32-bit int."""
    if isinstance(code, int):
        return max(-(2**31), min(2**31 - 1, int(code)))
    return 0 if code is None else 1


def exit_code_of(error: BaseException | None) -> int:
    """Return the exit code of an interpreter that ``error`` ends; 0 for None."""
    if isinstance(error, SystemExit):
        return exit_code_for(error.code)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return 0 if error is None else 1


def bounded_seconds(timeout: Any, default_s: float) -> float:
    """Return ``timeout`` in seconds, within what a lock accepts; ``default_s`` if it is no number."""
    try:
        seconds = float(timeout)
    except (TypeError, ValueError, OverflowError):
        return default_s
    return default_s if math.isnan(seconds) else min(max(0.0, seconds), threading.TIMEOUT_MAX / 2)
