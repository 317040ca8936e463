"""What a tracker's threads put into its sender's inbox, beside handles' and script backends' events."""

from __future__ import annotations

from dataclasses import dataclass

from tracker_client.staging.items import ItemDraft
from tracker_protocol import limits


@dataclass(frozen=True)
class Wake:
    """The buffer fills up."""


@dataclass(frozen=True)
class LogConfig:
    """A configuration, as JSON."""

    document: str


@dataclass(frozen=True)
class Finish:
    """No more is coming. ``deadline`` is on the monotonic clock, in seconds."""

    exit_code: int
    delivered: bool
    deadline: float

    @property
    def items_until(self) -> float:
        """Until when it waits for items whose contents are still being uploaded."""
        return self.deadline - limits.FINISH_RESERVE_S


@dataclass(frozen=True)
class ContentsSettled:
    """The contents of an item are durable at the daemon (``ok``), or will never be."""

    draft: ItemDraft
    ok: bool
