"""Signals as values that a loop reads, instead of handlers that interrupt any line."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable
from types import FrameType
from typing import Any

PASSED_ON = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""Signals that a wrapper passes on to its command."""
ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})


class SignalInbox:
    """Collects signals ``numbers`` until closed; signals that the process ignores stay ignored.

    SIGCHLD is always collected: if it were ignored, the exit status of children would be lost.

    Only the main thread may create one. Programs started meanwhile get the default actions, since exec
    resets handled signals.
    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._previous_wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._previous: dict[signal.Signals, Any] = {
            number: signal.signal(number, _noted)
            for number in numbers
            if number == signal.SIGCHLD or signal.getsignal(number) is not signal.SIG_IGN
        }

    def close(self) -> None:
        """Give every signal its earlier handler back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self._read)
        os.close(self._write)

    def wait(self, timeout_s: float | None) -> list[signal.Signals]:
        """Wait for a signal; return all that have arrived, in order. Empty after ``timeout_s``."""
        select.select([self._read], [], [], timeout_s)
        try:
            return [signal.Signals(number) for number in os.read(self._read, 4096)]
        except BlockingIOError:
            return []


def _noted(number: int, frame: FrameType | None) -> None:
    """Do nothing: the interpreter has already written the number into the inbox's pipe."""
