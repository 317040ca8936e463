"""Events that a tracker's threads put into its sender's inbox.

The modules of handles and script backends define further events.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracker_client.staging.items import ItemDraft
from tracker_client.values.exit_status import ExitStatusFile
from tracker_protocol import limits


@dataclass(frozen=True)
class Wake:
    """The staging buffer fills up, and a flush is due (``flush``); or a thread has warned."""

    flush: bool = True


@dataclass(frozen=True)
class LogConfig:
    """A configuration, as JSON."""

    document: str


WAITS = ("recorded", "files", "delivered")
"""What ``finish()`` can wait for: the daemon's journal, its files (on the primary rank), all its backends."""


@dataclass(frozen=True)
class Finish:
    """``finish()`` was called, or the script ends without it. ``deadline`` is on the monotonic clock, in s.

    ``exit_code`` None: the code will be in the file ``exit_status``. ``wait`` is one of WAITS.
    """

    exit_code: int | None
    wait: str = "files"
    deadline: float = 0.0
    exit_status: ExitStatusFile | None = None

    @property
    def items_until(self) -> float:
        """The end of the wait for items whose contents are still being uploaded."""
        return self.deadline - limits.FINISH_RESERVE_S


@dataclass(frozen=True)
class ContentsSettled:
    """The contents of an item are durable at the daemon (``ok``), or will never be uploaded."""

    draft: ItemDraft
    ok: bool
