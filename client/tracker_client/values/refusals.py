"""Counts values that cannot be recorded, and warns about each key once.

``log()`` raises nothing, so these warnings are how a user learns that ``log({"img": figure})`` records
nothing. Both the calling threads and the sender's thread report here.
"""

from __future__ import annotations

import logging
import threading

WARNED_KEYS_MAX = 1_000
"""A bound, so that a script with a new key at each step fills neither the log nor the memory."""
KEY_SHOWN_CHARACTERS = 80

logger = logging.getLogger("tracker_client")


class Refusals:
    """A thread-safe count of refused values with one warning per key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        self._count = 0

    @property
    def count(self) -> int:
        """The number of values refused so far."""
        return self._count

    def refuse(self, key: object, reason: str, *, values: int = 1) -> None:
        """Count ``values`` refused values of ``key``; warn if this key has not been warned about yet."""
        with self._lock:
            self._count += values
        self.warn_once(key, reason)

    def warn_once(self, key: object, reason: str) -> None:
        """Warn about ``key``, unless it has been warned about already; count nothing."""
        shown = _shown(key)
        with self._lock:
            if shown in self._warned or len(self._warned) > WARNED_KEYS_MAX:
                return
            self._warned.add(shown)
            last = len(self._warned) > WARNED_KEYS_MAX
        logger.warning("%s: %s", shown, reason)
        if last:
            logger.warning(
                "more keys than %d were warned about; later ones are only counted", WARNED_KEYS_MAX
            )


def _shown(key: object) -> str:
    try:
        text = repr(key)
    except Exception:  # noqa: BLE001 - a key's repr is the user's code and may raise anything
        text = f"<{type(key).__name__}>"
    return text if len(text) <= KEY_SHOWN_CHARACTERS else text[: KEY_SHOWN_CHARACTERS - 1] + "…"
