"""An event loop whose time leaps over what it would wait for: timeouts of seconds take none."""

from __future__ import annotations

import asyncio
import selectors


class _LeapingSelector(selectors.DefaultSelector):
    """Waits for nothing; what it was to wait for is added to ``now_s``."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now_s += max(timeout or 0.0, 0.0)
        return super().select(0)


class LeapingLoop(asyncio.SelectorEventLoop):
    """For scenarios within this thread alone, which nothing from outside wakes."""

    def __init__(self) -> None:
        self._leaping = _LeapingSelector()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now_s
