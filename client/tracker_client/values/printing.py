"""Shows messages to the user, through the logger ``tracker_client``.

Each message begins with the product's name and the rank of this process. A message that the daemon sends is
about the ranks that it names itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from contextlib import suppress

PRODUCT = "tracker-daemon"
_SHOWING_WAIT_S = 5.0
"""The longest wait for a message that another thread is showing: a busy machine may suspend that thread."""
_POLL_S = 0.005
_OF_THE_DAEMON = {"tracker_begins_with": PRODUCT}

logger = logging.getLogger("tracker_client")


class _Beginning(logging.Filter):
    """Lets each message begin with the product's name and the rank."""

    rank: int | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        own = PRODUCT if self.rank is None else f"{PRODUCT}, rank {self.rank}"
        begins_with = getattr(record, "tracker_begins_with", own)
        if not str(record.msg).startswith(PRODUCT):
            record.msg = f"{begins_with}: {record.msg}"
        return True


_beginning = _Beginning()
logger.addFilter(_beginning)


def name_rank(rank: int | None) -> None:
    """Let messages of this process begin with ``rank`` from now on."""
    _beginning.rank = rank


def show(text: str, level: int = logging.WARNING, *, of_the_daemon: bool = False) -> None:
    """Show a message at once; by default a warning."""
    # A signal handler may have interrupted a write to the same file, which then refuses to be written to.
    with suppress(RuntimeError):
        logger.log(level, "%s", text, extra=_OF_THE_DAEMON if of_the_daemon else None)


class WarningPrinter:
    """Shows warnings on a thread of its own, for threads that must not wait for a log's locks and files."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, int, bool]] = deque()
        self._printing = threading.Lock()  # nobody waits for it for long
        self._is_stopped = False

    def show_soon(self, text: str, level: int = logging.WARNING, *, of_the_daemon: bool = False) -> None:
        """Have a message shown; by default a warning."""
        self._waiting.append((text, level, of_the_daemon))
        if not self._printing.locked():
            # If the interpreter ends, it starts no thread any more; flush() follows then.
            with suppress(RuntimeError):
                threading.Thread(target=self._print_waiting, name="tracker-warnings", daemon=True).start()

    def flush(self) -> None:
        """Show what waits, on this thread; wait for what another thread is showing, for a bounded time."""
        self._show_waiting()
        until = time.monotonic() + _SHOWING_WAIT_S
        while self._printing.locked() and time.monotonic() < until:
            time.sleep(_POLL_S)

    def _print_waiting(self) -> None:
        while self._waiting and self._printing.acquire(blocking=False):
            try:
                self._show_waiting()
            finally:
                self._printing.release()

    def _show_waiting(self) -> None:
        with suppress(IndexError):  # nothing waits any more
            while True:
                text, level, of_the_daemon = self._waiting.popleft()
                show(text, level, of_the_daemon=of_the_daemon)
