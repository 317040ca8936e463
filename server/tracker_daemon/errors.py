"""The daemon's errors: one small tree. Each message says what happened, to what, and what to do."""

from __future__ import annotations


class TrackerDaemonError(Exception):
    """The root of every error that the daemon raises on purpose."""


class SettingsError(TrackerDaemonError):
    """A setting cannot be used."""


class StateDirectoryError(TrackerDaemonError):
    """The state directory cannot be used: held by another daemon, not writable, not lockable."""


class StateDirectoryHeld(StateDirectoryError):
    """Another daemon has the state directory."""


class JournalError(TrackerDaemonError):
    """The journal could not be read or committed. Nothing is acknowledged after one."""


class JournalCorrupt(JournalError):
    """A record of the journal does not match its checksum.

    ``position`` is the event's position, so that a reader may go on after it; 0 when it is no event.
    """

    def __init__(self, message: str, position: int = 0) -> None:
        super().__init__(message)
        self.position = position


class ProtocolError(TrackerDaemonError):
    """A client sent what the protocol does not allow."""


class ClientRefused(TrackerDaemonError):
    """A client may not join: its rank is taken, or a limit is reached."""


class ContentRefused(TrackerDaemonError):
    """A content may not be stored, now or later."""


class ContentStoreFull(TrackerDaemonError):
    """There is no room for a content now; there may be later."""


class ContentMismatch(ProtocolError):
    """What arrived of a content is not what was announced; it is to be sent again."""


class BackendError(TrackerDaemonError):
    """A backend could not store something."""


class BackendUnavailable(BackendError):
    """The backend's store cannot be reached or written now; trying again may help."""


class UpstreamUnavailable(BackendUnavailable):
    """The daemon that this one forwards to cannot be reached now."""


class BackendRefused(BackendError):
    """The backend needs the user's help before it takes anything: credentials, permissions."""


class PoisonEntry(BackendError):
    """One entry can never be stored; the rest may go on."""


class EndpointError(TrackerDaemonError):
    """No daemon answers at an endpoint, or the endpoint file cannot be read."""


class MalformedBatch(ProtocolError):
    """A batch's body cannot be decoded; it is journalled as rejected, with this as its reason."""


class DaemonNotRunning(EndpointError):
    """Nothing listens where the daemon was, or it never was there."""


class CommandError(TrackerDaemonError):
    """The command that was to be run could not be started."""


class CommandNotFound(CommandError):
    """There is no such command."""


class CommandNotExecutable(CommandError):
    """The command is there and cannot be executed."""


class DaemonStartError(TrackerDaemonError):
    """A daemon that was started as a child did not become ready."""
