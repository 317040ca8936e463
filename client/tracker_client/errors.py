"""The client's errors: one small tree. Only setting up raises them, and remote handles; never ``log()``."""

from __future__ import annotations


class TrackerError(Exception):
    """The root of every error that the client raises on purpose."""


class SettingsError(TrackerError):
    """An argument or a variable of the environment cannot be used."""


class RankUnknown(TrackerError):
    """Several processes are running and nothing says which one this is."""


class EndpointError(TrackerError):
    """No endpoint is configured, it cannot be read, or no daemon answers there."""


class EndpointPending(EndpointError):
    """The daemon of this launch has not said yet where it is; it is about to."""


class EmbeddedDaemonFailed(EndpointError):
    """The daemon that rank 0 started for this launch has ended at once; its own words are in the message."""


class DaemonRefused(TrackerError):
    """The daemon answered and does not admit this rank; raised only when ``strict`` is set."""


class NotRemote(TrackerError, AttributeError):
    """A backend's handle has no such attribute: it exists in the backend's process at the daemon alone."""


class NotLoggedHere(NotRemote, KeyError):
    """This process has logged no such value, and what other ranks have logged is at the daemon."""

    __str__ = Exception.__str__  # a KeyError's shows the repr of its message


class BackendNotInstalled(TrackerError, ImportError):
    """A backend for this process needs a package that is not installed."""
