"""Warnings on their way to the user.

Where many ranks run, each sends its warnings to the daemon. The daemon has the primary rank show equal ones
of many ranks once. A rank shows its own warnings itself if it is the only one, or if no daemon answers; the
primary rank also does so if the daemon does not return them in time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from tracker_client.transport.stream import Connection
from tracker_client.values.printing import WarningPrinter, show
from tracker_protocol import limits


class _Waiting(NamedTuple):
    text: str
    until: float


class RankWarnings:
    """The warnings of one tracker. ``wake`` wakes the sender, which then calls :meth:`advance`.

    Any thread may call ``warn`` and ``flush``; only the sender may call the rest.
    """

    def __init__(self, wake: Callable[[], None], *, is_alone: bool, is_primary: bool) -> None:
        self.printer = WarningPrinter()
        self._wake = wake
        self._is_alone = is_alone
        self._is_primary = is_primary
        self._new: deque[str] = deque()
        self._is_ended = False
        self._unsent: deque[_Waiting] = deque()
        self._not_returned: deque[_Waiting] = deque()

    # ---- any thread ------------------------------------------------------------------------------

    def warn(self, text: str) -> None:
        """Have a warning shown, without a wait."""
        if self._is_ended:
            show(text)
            return
        self._new.append(text)
        self._wake()

    def flush(self) -> None:
        """Show all that is left, once the sender has ended."""
        self._is_ended = True
        while self._new:
            self.printer.show_soon(self._new.popleft())
        self.printer.flush()

    # ---- the sender ------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """The time at which :meth:`advance` has something to do, on the monotonic clock."""
        return min((one[0].until for one in (self._unsent, self._not_returned) if one), default=math.inf)

    def advance(self, now: float, connection: Connection | None) -> None:
        """Send new warnings on ``connection``; show those that waited long enough."""
        while self._new:
            text = self._new.popleft()
            if self._is_alone:
                self.printer.show_soon(text)
            else:
                self._unsent.append(_Waiting(text, now + limits.WARNING_SENT_WITHIN_S))
        if connection is not None:
            self._send(now, connection)
        self._show_overdue(now, self._unsent)
        self._show_overdue(now, self._not_returned)

    def returned(self, text: str) -> None:
        """Show a sentence of the daemon; warnings of this rank that it contains are shown by that."""
        self._not_returned = deque(one for one in self._not_returned if one.text not in text)
        self.printer.show_soon(text, of_the_daemon=True)

    def end(self) -> None:
        """Show what waits: nothing is sent or returned any more."""
        self._is_ended = True
        self.advance(math.inf, None)

    def _send(self, now: float, connection: Connection) -> None:
        while self._unsent:
            text = self._unsent.popleft().text
            connection.warn(text)
            if self._is_primary:
                self._not_returned.append(_Waiting(text, now + limits.WARNING_RETURNED_WITHIN_S))

    def _show_overdue(self, now: float, waiting: deque[_Waiting]) -> None:
        while waiting and now >= waiting[0].until:
            self.printer.show_soon(waiting.popleft().text)
