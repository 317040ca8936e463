"""Waiting for something that another process or thread brings about."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

PATIENCE_S = 60.0


def wait_until(
    condition: Callable[[], object], what: str = "the condition", patience_s: float = PATIENCE_S
) -> None:
    """Return once ``condition()`` is true; fail, naming ``what``, when it does not become so."""
    deadline, pause_s = time.monotonic() + patience_s, 0.01
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {patience_s:.0f} s in vain: {what}")
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, 0.1)  # each look costs the awaited process time on the processor
