"""Counts values that cannot be recorded, and warns about each cause at most once a minute.

``log()`` raises nothing, so these warnings are how a user learns that ``log({"loss": None})`` records
nothing. Both the calling threads and the sender's thread report here.

A *cause* is a reason, whatever its numbers and keys. Its first refusal is warned about at once, with the keys
of that call. Later warnings name the keys that are new, and count the values. The last one is
:meth:`Refusals.report`'s, at the end of the run.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tracker_client.values.printing import show
from tracker_client.values.tally import Tally

WARNED_KEYS_MAX = 1_000
"""A bound, so that a script with a new key at each step fills neither the log nor the memory."""
CAUSES_MAX = 100
"""The number of causes that are warned about one by one; further ones are warned about as one cause."""
WARNING_INTERVAL_S = 60.0
"""The least time in seconds between two warnings of one cause."""
REPEAT_INTERVAL_MAX_S = 3600.0
"""While a cause has no new keys, the time between its warnings doubles up to this one."""
KEY_SHOWN_CHARACTERS = 80
KEYS_SHOWN_MAX = 5
REPORTS_WAITING_MAX = 1_000
"""The number of calls whose refusals wait to be worked off; of older ones only the values are counted."""
_FURTHER = "other causes"
_NUMBER = re.compile(r"\d+")


class UnusableValue(Exception):
    """A value cannot be recorded; the message is the reason, for the user."""


class _Report(NamedTuple):
    """Keys and reasons; each counts ``values`` values, or is a warning without a count if that is 0."""

    refused: list[tuple[str, str]]
    values: int
    of_all: bool = False


@dataclass
class _Cause:
    """The refusals of one cause. ``new_keys`` and ``unreported`` count from the last warning on."""

    reason: str
    total: int = 0
    unreported: int = 0
    new_keys: dict[str, None] = field(default_factory=dict)
    named_keys: dict[str, None] = field(default_factory=dict)
    warned_at: float | None = None
    interval_s: float = WARNING_INTERVAL_S

    def add(self, key: str, reason: str, values: int) -> None:
        self.reason = reason
        self.total += values
        self.unreported += values
        if key not in self.named_keys and len(self.named_keys) < WARNED_KEYS_MAX:
            self.named_keys[key] = self.new_keys[key] = None

    def is_due(self, now: float) -> bool:
        if self.warned_at is None:
            return True
        interval_s = WARNING_INTERVAL_S if self.new_keys else self.interval_s
        return now - self.warned_at >= interval_s

    def warn(self, now: float) -> str:
        """Return the warning of the refusals since the last warning."""
        keys = list(self.new_keys or self.named_keys)
        first = self.warned_at is None
        if not first:
            self.interval_s = min(2 * self.interval_s, REPEAT_INTERVAL_MAX_S)
        self.warned_at, self.unreported, self.new_keys = now, 0, {}
        named = ", ".join(keys[:KEYS_SHOWN_MAX])
        more = f" and {len(keys) - KEYS_SHOWN_MAX} more" if len(keys) > KEYS_SHOWN_MAX else ""
        count = "" if first and self.total <= len(keys) else f" ({self.total} values so far)"
        return f"{named}{more}: {self.reason}{count}"


class Refusals:
    """A thread-safe count of refused values, with at most one warning a minute per cause.

    No call waits for another one: a signal handler may interrupt any of them, and refuse values too. A report
    is queued, and whoever has the lock works the queue off. ``warn`` receives the texts.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, warn: Callable[[str], None] = show
    ) -> None:
        self._working = threading.Lock()  # nobody waits for it
        self._clock = clock
        self._warn = warn
        self._count = Tally()
        self._reports: deque[_Report] = deque(maxlen=REPORTS_WAITING_MAX)
        self._warned: set[str] = set()
        self._causes: dict[str, _Cause] = {}

    @property
    def count(self) -> int:
        """The number of values refused so far."""
        return self._count.value

    def refuse(self, key: object, reason: str, *, values: int = 1) -> None:
        """Count ``values`` refused values of ``key``; warn if a warning of this cause is due."""
        self._count.add(values)
        self._report(_Report([(shown(key), reason)], values))

    def refuse_each(self, refused: Iterable[tuple[object, str]]) -> None:
        """Count the refused values of one call, given by key and reason; warn as :meth:`refuse` does."""
        named = [(shown(key), reason) for key, reason in refused]
        self._count.add(len(named))
        self._report(_Report(named, 1))

    def warn_each_minute(self, key: object, reason: str, *, values: int = 1) -> None:
        """Warn about ``values`` values that are recorded in another form, or are counted elsewhere.

        As :meth:`refuse`, but :attr:`count` stays.
        """
        self._report(_Report([(shown(key), reason)], values))

    def warn_once(self, key: object, reason: str) -> None:
        """Warn about ``key``, unless it has been warned about already; count nothing."""
        self._report(_Report([(shown(key), reason)], 0))

    def report(self) -> None:
        """Warn about refusals that no warning has counted yet."""
        self._report(_Report([], 0, of_all=True))

    def _report(self, report: _Report) -> None:
        self._reports.append(report)
        while self._reports and self._working.acquire(blocking=False):
            texts: list[str] = []
            try:
                while self._reports:
                    texts += self._texts_of(self._reports.popleft())
            finally:
                self._working.release()
            for text in texts:
                self._warn(text)

    # ---- with the lock ---------------------------------------------------------------------------

    def _texts_of(self, report: _Report) -> list[str]:
        now = self._clock()
        if report.of_all:
            return [cause.warn(now) for cause in self._causes.values() if cause.unreported]
        if not report.values:
            return [text for key, reason in report.refused for text in self._once(key, reason)]
        causes: dict[int, _Cause] = {}
        for key, reason in report.refused:
            cause = self._cause_of(reason)
            cause.add(key, reason, report.values)
            causes[id(cause)] = cause
        return [cause.warn(now) for cause in causes.values() if cause.is_due(now)]

    def _cause_of(self, reason: str) -> _Cause:
        name = _NUMBER.sub("#", reason)
        if name not in self._causes and len(self._causes) >= CAUSES_MAX:
            name = _FURTHER
        return self._causes.setdefault(name, _Cause(reason))

    def _once(self, key: str, reason: str) -> list[str]:
        if key in self._warned or len(self._warned) > WARNED_KEYS_MAX:
            return []
        self._warned.add(key)
        texts = [f"{key}: {reason}"]
        if len(self._warned) > WARNED_KEYS_MAX:
            texts.append(f"more keys than {WARNED_KEYS_MAX} were warned about; no further key is named")
        return texts


def shown(key: object) -> str:
    """Return a key or another value of the script as a message shows it."""
    try:
        text = repr(key)
    except Exception:  # noqa: BLE001 - a key's repr is the user's code and may raise anything
        text = f"<{type(key).__name__}>"
    return text if len(text) <= KEY_SHOWN_CHARACTERS else text[: KEY_SHOWN_CHARACTERS - 1] + "…"
