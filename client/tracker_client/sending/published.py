"""The part of the sender's state that other threads may read."""

from __future__ import annotations

import threading

from tracker_client.staging.items import ItemDraft
from tracker_client.transport.messages import Welcome


class Published:
    """Events to wait for, and plain attributes.

    Only the sender's thread changes them, each in one assignment, so that readers need no lock.
    """

    def __init__(self) -> None:
        self.tried = threading.Event()
        """Set once the first connection has its threads, or could not be made."""
        self.welcomed = threading.Event()
        """Set once a daemon has welcomed the stream."""
        self.answered = threading.Event()
        """Set once a daemon has welcomed or refused the stream."""
        self.ended = threading.Event()
        """Set once the sender has stopped for good."""
        self.run: Welcome | None = None
        """The last Welcome; None before the first."""
        self.directory: str | None = None
        """The directory of the run's files; None until the daemon has sent it."""
        self.located = threading.Event()
        """Set once ``directory`` is known."""
        self.connected = False
        """True while the link is STREAMING."""
        self.connections = 0
        """The number of Welcomes so far."""
        self.problem = ""
        """The reason why nothing is sent; empty while the link is STREAMING."""
        self.finished = False
        """True once everything that ``finish()`` asked for is done, and was done in time."""
        self.missing = ""
        """A sentence about the rows that the daemon's files lacked when ``finish()`` ended; "" for none."""
        self.unfinished = ""
        """A sentence about what ``finish()`` still waited for at its timeout, beside acknowledgements."""
        self.unrecorded: list[ItemDraft] = []
        """Items that did not reach the daemon. Complete once ``ended`` is set."""
