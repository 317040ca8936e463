"""The thin client of tracker-daemon: what a training script imports.

>>> from tracker_client import setup_tracker
>>> tracker = setup_tracker("my-project")
>>> tracker.log({"loss": 0.42, "lr": 1e-4})
>>> tracker.finish()

It needs grpcio and protobuf, never blocks the training loop and never raises into it.
"""

from tracker_client.backend import TrackerBackend, register_backend
from tracker_client.null_tracker import NullTracker
from tracker_client.setup import setup_tracker
from tracker_client.tracker import Tracker
from tracker_client.version import __version__

__all__ = ["NullTracker", "Tracker", "TrackerBackend", "__version__", "register_backend", "setup_tracker"]
