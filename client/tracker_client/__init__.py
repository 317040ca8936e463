"""The thin client of tracker-daemon: what a training script imports.

>>> from tracker_client import setup_tracker
>>> tracker = setup_tracker("my-project")
>>> tracker.log({"loss": 0.42, "lr": 1e-4})
>>> tracker.finish()

The package needs grpcio and protobuf only. ``log()`` never blocks the training loop and never raises into it.

* ``setup``: ``setup_tracker``, which makes a tracker from its arguments and the environment.
* ``trackers``: the objects that ``setup_tracker`` returns.
* ``values``: copies and checks the arguments of ``log()``; ``staging``: keeps them, and makes rows of them.
* ``sending``: sends rows as numbered batches, on one background thread; ``transport``: gRPC and protobuf.
* ``media``: tables, images and artifacts; ``watch``: statistics of a model's gradients and parameters.
* ``backends``: the script's own classes, and handles of the daemon's backends.
* ``recorded``: ``runs`` and ``read``, which find recorded runs and read their files.
* ``inprocess``: backends in the script's own process, without a daemon.
* ``settings``: the arguments and the environment; ``identity``: the rank and launch of this process.
* ``endpoints``: the addresses of the daemon, and the start of a daemon if none is configured.
* ``errors``: the exceptions; ``version``: the installed version.
* ``ezpz_compat``: the names of ``ezpz.tracker``; ``__main__``: shows a rank's identity and tries the daemon.
"""

from typing import TYPE_CHECKING, Any

from tracker_client.backends.base import TrackerBackend, register_backend
from tracker_client.recorded import read, runs
from tracker_client.setup import setup_tracker
from tracker_client.trackers.null_tracker import NullTracker
from tracker_client.trackers.tracker import Tracker
from tracker_client.version import __version__

if TYPE_CHECKING:
    from tracker_client.inprocess.loading import CSVBackend, MLflowBackend, WandbBackend

__all__ = [
    "CSVBackend",
    "MLflowBackend",
    "NullTracker",
    "Tracker",
    "TrackerBackend",
    "WandbBackend",
    "__version__",
    "read",
    "register_backend",
    "runs",
    "setup_tracker",
]


def __getattr__(name: str) -> Any:
    """Import the class of a built-in backend when a script asks for it, and not before."""
    from tracker_client.backends.built_in import CLASSES  # noqa: PLC0415 - not before it is needed
    from tracker_client.inprocess.loading import class_or_stand_in  # noqa: PLC0415

    for backend, class_name in CLASSES.items():
        if name == class_name:
            return class_or_stand_in(backend)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
