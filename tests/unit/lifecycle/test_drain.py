"""The delivery of the rest, when a pump has ended."""

from __future__ import annotations

import asyncio
import time

from tracker_daemon.lifecycle.drain import SLICE_S, deliver_rest


class Pumps:
    """A set of pumps of which one has ended with something left: waiting for it returns at once."""

    def __init__(self, delivered_after: int) -> None:
        self.asked = 0
        self._delivered_after = delivered_after

    def refusals(self) -> dict[object, int]:
        return {}

    def is_refused(self, before: dict[object, int]) -> bool:
        return False

    def drain(self, timeout_s: float) -> bool:
        self.asked += 1
        return self.asked > self._delivered_after


async def report() -> None:
    """Nobody reads it."""


def test_a_pump_that_has_ended_is_not_asked_again_and_again() -> None:
    pumps, begun = Pumps(delivered_after=1000), time.monotonic()
    assert not asyncio.run(deliver_rest(pumps, lambda: 3 * SLICE_S, report))
    assert pumps.asked <= 4
    assert time.monotonic() - begun >= 3 * SLICE_S


def test_what_is_delivered_meanwhile_ends_the_wait() -> None:
    assert asyncio.run(deliver_rest(Pumps(delivered_after=1), lambda: 60.0, report))
