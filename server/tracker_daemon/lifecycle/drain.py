"""The delivery of the rest when a daemon ends, with reports of its progress."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from tracker_daemon.delivery.pump_set import PumpSet

SLICE_S = 0.5
REPORT_EVERY_S = 1.0


async def deliver_rest(
    pumps: PumpSet, timeout_s: Callable[[], float], report: Callable[[], Awaitable[None]]
) -> bool:
    """Wait until everything is delivered; return True if it is within ``timeout_s()``, which may shrink.

    The wait ends early if every backend with something left refuses once more: a job that ends gets no new
    credentials. ``report`` is awaited every REPORT_EVERY_S seconds.
    """
    begun = reported = asked = time.monotonic()
    before = pumps.refusals()
    while not await asyncio.to_thread(pumps.drain, SLICE_S):
        now = time.monotonic()
        if now - begun >= timeout_s() or pumps.is_refused(before):
            return False
        if now - reported >= REPORT_EVERY_S:
            reported = now
            await report()
        # A pump that has ended with something left returns at once, while others still deliver.
        await asyncio.sleep(asked + SLICE_S - now)
        asked = time.monotonic()
    return True
