"""The progress of a pump: notifications, and how many of them are delivered."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Progress:
    """Counts notifications of new entries, and remembers up to which of them everything is delivered.

    A notification that arrives during a reading of the outbox may concern entries that this reading missed.
    Therefore it counts as delivered only after the next reading.
    """

    caught_up_at_s: float
    """The time at which the pump last had nothing to do, in seconds on its clock."""
    notified: int = 0
    """Notifications so far."""
    read: int = 0
    """Notifications before the last reading of the outbox."""
    caught_up: int = -1
    """Notifications up to which everything is delivered or set aside; -1: the outbox was never empty yet."""

    @property
    def is_caught_up(self) -> bool:
        """True if everything that was notified is delivered or set aside."""
        return self.caught_up >= self.notified

    def begin_reading(self) -> None:
        """Note that the outbox is read now."""
        self.read = self.notified

    def catch_up(self, now_s: float) -> None:
        """Note that the last reading found nothing more."""
        self.caught_up = self.read
        self.caught_up_at_s = now_s

    def is_late(self, now_s: float, after_s: float) -> bool:
        """Return True if something waits for delivery and the pump has been busy for over ``after_s``."""
        return not self.is_caught_up and now_s - self.caught_up_at_s > after_s
