"""The names of ``ezpz.tracker``, for a script that changes its import line and nothing else.

>>> from tracker_client.ezpz_compat import setup_tracker, Tracker, NullTracker, TrackerBackend
>>> from tracker_client.ezpz_compat import register_backend, CSVBackend, MLflowBackend, WandbBackend

What departs on purpose:

* ``setup_tracker`` streams to a daemon, which holds the backends and their credentials, and aggregates what
  all ranks log; ``endpoint="inprocess"``, or TRACKER_ENDPOINT=inprocess, has them in the script's process.
  There, as in ``ezpz``, only rank 0 records, and nothing is aggregated.
* CSV rows and MLflow's points are written in the background: they are there after ``finish``, and a fraction
  of a second after ``log`` before that. A CSV row always has its step; a file is appended to, never
  rewritten, and a directory that is another run's gets a subdirectory.
* W&B's rows carry the column ``step``, the axis of all charts. W&B works offline without a key.
* MLflow's run is not the process's active one: MLflow's own ``log_metric()`` and the like do not go to it.
  Params of the system begin with ``tracker.``.
* A rank that cannot be known with several processes is an error, and not rank 0.
* A tracker finishes by itself at exit, as failed after an uncaught exception, and is a context manager.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tracker_client
from tracker_client.backends.base import TrackerBackend, register_backend
from tracker_client.setup import setup_tracker
from tracker_client.trackers.null_tracker import NullTracker
from tracker_client.trackers.tracker import Tracker

if TYPE_CHECKING:
    from tracker_client.inprocess.loading import CSVBackend, MLflowBackend, WandbBackend

__all__ = [
    "CSVBackend",
    "MLflowBackend",
    "NullTracker",
    "Tracker",
    "TrackerBackend",
    "WandbBackend",
    "register_backend",
    "setup_tracker",
]


def __getattr__(name: str) -> Any:
    """The built-in backends, as :mod:`tracker_client` has them."""
    if name in __all__:
        return getattr(tracker_client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
