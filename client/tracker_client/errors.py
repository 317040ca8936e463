"""The client's errors. ``setup_tracker`` and remote handles raise them; ``log()`` never does."""

from __future__ import annotations


class TrackerError(Exception):
    """The base class of every error that the client raises on purpose."""


class SettingsError(TrackerError):
    """An argument or a variable of the environment cannot be used."""


class RankUnknown(TrackerError):
    """Several processes run, and the rank of this one cannot be found."""


class EndpointError(TrackerError):
    """No endpoint is configured, it cannot be read, or no daemon answers there."""


class EndpointPending(EndpointError):
    """The daemon of this launch has not written its endpoint file yet."""


class EndpointMissing(EndpointPending):
    """Rank 0's daemon has published no endpoint where this rank looks: their directories may differ."""


class EmbeddedDaemonFailed(EndpointError):
    """The daemon that rank 0 started ended at once; the message has the last line of its log."""


class DaemonRefused(TrackerError):
    """The daemon answered, and does not admit this rank; raised only if ``strict`` is set."""


class NotRemote(TrackerError, AttributeError):
    """A handle has no such attribute: it exists only in the backend's own process, at the daemon."""


class NotLoggedHere(NotRemote, KeyError):
    """This process has logged no such value; values of other ranks are only at the daemon."""

    __str__ = Exception.__str__  # KeyError would show the repr of the message


class BackendNotInstalled(TrackerError, ImportError):
    """A backend in this process needs a package that is not installed."""


class RunNotFound(TrackerError, LookupError):
    """No recorded run has the name, or several have; the message lists those that there are."""
