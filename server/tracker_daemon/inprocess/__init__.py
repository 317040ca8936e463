"""The built-in backends in the training script's own process, without a daemon.

Each is a :class:`tracker_client.TrackerBackend`. ``CSVBackend`` and ``MLflowBackend`` are the daemon's own
backends, fed by a pump from an outbox in memory: ``log()`` waits for no file and no server, and what a store
does not take now is tried again. ``WandbBackend`` calls the SDK at once, as its user's other calls do. What
memory holds dies with the process: who needs more than that runs a daemon.

* ``csv_backend``, ``mlflow_backend``, ``wandb_backend``: the three classes.
* ``delivery``: feeds one of the daemon's backends from a script's calls; ``files_lane``: its lane for files.
* ``outbox``: the outbox in memory; ``blocks``: rows as logged to record blocks.
* ``description``: the run, as a backend is opened for it; ``events``: warnings as standard logging.
"""

from __future__ import annotations

from tracker_daemon.inprocess.csv_backend import CSVBackend
from tracker_daemon.inprocess.mlflow_backend import MLflowBackend
from tracker_daemon.inprocess.wandb_backend import WandbBackend

__all__ = ["CSVBackend", "MLflowBackend", "WandbBackend"]
