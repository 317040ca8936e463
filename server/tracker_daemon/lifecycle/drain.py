"""Delivering what is left when a daemon ends, and telling meanwhile how much that is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from tracker_daemon.delivery.pump_set import PumpSet

SLICE_S = 0.5
TELL_EVERY_S = 1.0


async def deliver_rest(
    pumps: PumpSet, timeout_s: Callable[[], float], tell: Callable[[], Awaitable[None]]
) -> bool:
    """Wait until everything is delivered; whether it was within ``timeout_s()``, which may shrink meanwhile.

    A backend that refuses once more is not waited for: credentials do not come while a job ends.
    ``tell`` is awaited from time to time.
    """
    begun = told = time.monotonic()
    before = pumps.refusals()
    while not await asyncio.to_thread(pumps.drain, SLICE_S):
        now = time.monotonic()
        if now - begun >= timeout_s() or pumps.is_refused(before):
            return False
        if now - told >= TELL_EVERY_S:
            told = now
            await tell()
    return True
