"""The names of ``ezpz.tracker``, for a script that changes only its import line.

>>> from tracker_client.ezpz_compat import setup_tracker, Tracker, NullTracker, TrackerBackend
>>> from tracker_client.ezpz_compat import register_backend, CSVBackend, MLflowBackend, WandbBackend

The differences from ``ezpz``, all on purpose:

* ``setup_tracker`` sends to a daemon. The daemon holds the backends and their credentials, and aggregates the
  values of all ranks. With ``endpoint="inprocess"``, or TRACKER_ENDPOINT=inprocess, the backends are in the
  script's process. There, as in ``ezpz``, only rank 0 records, and nothing is aggregated.
* CSV rows and MLflow's points are written in the background, within a fraction of a second after ``log``, and
  completely before ``finish`` returns. A CSV row always has its step. A file is appended to, never rewritten.
  In a directory of another run, this run writes to a subdirectory.
* W&B's rows have the column ``step``, the axis of all charts. W&B works offline without a key.
* MLflow's run is not the active run of the process: MLflow's own ``log_metric()`` and the like do not record
  to it. Parameters that describe the system begin with ``tracker.``.
* If several processes run and the rank is unknown, that is an error; ``ezpz`` takes rank 0.
* A tracker finishes by itself at exit, as failed after an uncaught exception. It is a context manager.
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
    """Import a built-in backend's class from :mod:`tracker_client` when a script asks for it."""
    if name in __all__:
        return getattr(tracker_client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
