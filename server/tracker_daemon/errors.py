"""The daemon's errors: one small tree. Each message names the event, the thing concerned and the remedy."""

from __future__ import annotations


class TrackerDaemonError(Exception):
    """The root of every error that the daemon raises on purpose."""


class SettingsError(TrackerDaemonError):
    """A setting cannot be used."""


class StateDirectoryError(TrackerDaemonError):
    """The state directory cannot be used: held by another daemon, not writable, not lockable."""


class StateDirectoryHeld(StateDirectoryError):
    """Another daemon holds the state directory."""


class JournalError(TrackerDaemonError):
    """The journal could not be read or committed. Nothing is acknowledged after one."""


class JournalCorrupt(JournalError):
    """A record of the journal does not match its checksum.

    ``position`` is the event's position, so that a reader can continue after it; 0 for other records.
    """

    def __init__(self, message: str, position: int = 0) -> None:
        super().__init__(message)
        self.position = position


class ProtocolError(TrackerDaemonError):
    """A client sent a message that the protocol does not allow."""


class ClientRefused(TrackerDaemonError):
    """A client may not join: its rank is taken, or a limit is reached."""


class RankHeld(ClientRefused):
    """A living process holds the rank in the run ``run_id``."""

    def __init__(self, message: str, run_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class PrimaryAwaited(TrackerDaemonError):
    """A rank has to wait for its run's primary rank; the client should connect again."""


class ContentRefused(TrackerDaemonError):
    """A content may not be stored, now or later."""


class ContentStoreFull(TrackerDaemonError):
    """The store has no room for a content now, but may have later."""


class ContentMismatch(ProtocolError):
    """The received bytes of a content differ from the announced digest; the client should send them again."""


class BackendError(TrackerDaemonError):
    """A backend could not store something."""


class BackendUnavailable(BackendError):
    """The backend's store cannot be reached or written now; a retry may succeed."""


class UpstreamUnavailable(BackendUnavailable):
    """The root cannot be reached now."""


class BackendRefused(BackendError):
    """The backend stores nothing until the user acts, for instance gives credentials or permissions."""


class PoisonEntry(BackendError):
    """One entry can never be stored; later entries can."""


class EndpointError(TrackerDaemonError):
    """No daemon answers at an endpoint, or the endpoint file cannot be read."""


class MalformedBatch(ProtocolError):
    """A batch's body cannot be decoded; the journal records the batch as rejected, with this reason."""


class DaemonNotRunning(EndpointError):
    """No daemon listens at the endpoint, or there is no endpoint file."""


class CommandError(TrackerDaemonError):
    """A command could not be started."""


class CommandNotFound(CommandError):
    """The command does not exist."""


class CommandNotExecutable(CommandError):
    """The command exists but cannot be executed."""


class DaemonStartError(TrackerDaemonError):
    """A daemon that was started as a child process did not become ready."""


class RunNotFound(TrackerDaemonError):
    """No recorded run has the name that a command was given, or several have."""


class RunKept(TrackerDaemonError):
    """A run cannot be removed: it may still be written, or is not delivered in full."""


class RunClosed(TrackerDaemonError):
    """A file of a recorded run cannot be read or changed by this user."""
