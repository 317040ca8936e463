"""The messages between the daemon and a backend's child process: what each asks and answers. Pure values."""

from __future__ import annotations

import msgspec

from tracker_daemon.backends.base import RunDescription, SetAside
from tracker_daemon.errors import BackendError, BackendRefused, BackendUnavailable, PoisonEntry
from tracker_daemon.outbox.entries import OutboxEntry

_ERROR_KINDS: dict[str, type[BackendError]] = {
    "unavailable": BackendUnavailable,
    "refused": BackendRefused,
    "poison": PoisonEntry,
}


# ---- requests of the daemon ----------------------------------------------------------------------


class Open(msgspec.Struct, frozen=True, tag="open"):
    """Asks for :meth:`Backend.open`; answered by Opened."""

    run: RunDescription
    state: bytes | None


class Deliver(msgspec.Struct, frozen=True, tag="deliver"):
    """Asks for :meth:`Backend.deliver`; answered by any number of Commits, then Delivered."""

    entries: tuple[OutboxEntry, ...]


class Committed(msgspec.Struct, frozen=True, tag="committed"):
    """Answers a Commit: the journal has its state."""


class GetTrouble(msgspec.Struct, frozen=True, tag="trouble?"):
    """Asks for :meth:`Backend.trouble`; answered by Trouble."""


class Close(msgspec.Struct, frozen=True, tag="close"):
    """Asks for :meth:`Backend.close`; answered by Closed, after which the child ends."""


# ---- answers of the child ------------------------------------------------------------------------


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The backend is open."""

    location: str | None
    handles: dict[str, str] = {}


class Commit(msgspec.Struct, frozen=True, tag="commit"):
    """Asks the daemon to commit a state before the delivery continues; also a heartbeat."""

    state: bytes


class Delivered(msgspec.Struct, frozen=True, tag="delivered"):
    """All entries are stored except for ``set_aside``; ``state`` reflects them."""

    state: bytes
    location: str | None
    set_aside: tuple[SetAside, ...] = ()
    handles: dict[str, str] = {}


class Trouble(msgspec.Struct, frozen=True, tag="trouble"):
    """The return value of :meth:`Backend.trouble`."""

    trouble: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The call raised a BackendError of this kind, with this text."""

    kind: str
    text: str

    @staticmethod
    def of(error: BackendError) -> Failed:
        """Describe ``error`` by its nearest kind."""
        kinds = [kind for kind, error_type in _ERROR_KINDS.items() if isinstance(error, error_type)]
        return Failed(kinds[0] if kinds else "unavailable", str(error))

    @property
    def error(self) -> BackendError:
        """The error to raise in the daemon."""
        return _ERROR_KINDS.get(self.kind, BackendUnavailable)(self.text)


class Closed(msgspec.Struct, frozen=True, tag="closed"):
    """The backend is closed."""


Request = Open | Deliver | Committed | GetTrouble | Close
Answer = Opened | Commit | Delivered | Trouble | Failed | Closed
