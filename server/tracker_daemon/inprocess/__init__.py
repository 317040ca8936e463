"""The built-in backends in the training script's own process, without a daemon.

Each is a :class:`tracker_client.TrackerBackend`. ``CSVBackend`` and ``MLflowBackend`` are the daemon's own
backends, fed by a pump from an outbox in memory: ``log()`` waits for no file and no server, and what a store
does not take now is tried again. ``WandbBackend`` calls the SDK at once, as its user's other calls do. What
memory holds dies with the process: who needs more than that runs a daemon.
"""

from __future__ import annotations

from tracker_daemon.inprocess.csv_backend import CSVBackend
from tracker_daemon.inprocess.mlflow_backend import MLflowBackend
from tracker_daemon.inprocess.wandb_backend import WandbBackend

__all__ = ["CSVBackend", "MLflowBackend", "WandbBackend"]
