"""The built-in backends in the training script's own process, without a daemon.

Each is a :class:`tracker_client.TrackerBackend`. ``CSVBackend`` and ``MLflowBackend`` use the daemon's own
backends: a pump delivers to them from an outbox in memory. So ``log()`` waits for no file and no server, and
    a delivery that fails is tried again. ``WandbBackend`` calls the SDK at once, as the script's other calls
    of W&B do. Data in memory is lost if the process dies; a daemon avoids that.

* ``csv_backend``, ``mlflow_backend``, ``wandb_backend``: the three classes.
* ``wandb_run``: begins a W&B run, offline if the server cannot be used.
* ``wandb_media``: images and tables of a call as objects of the SDK.
* ``delivery``: delivers a script's calls to one of the daemon's backends; ``files_lane``: its lane for files.
* ``outbox``: the outbox in memory; ``blocks``: makes record blocks of logged rows.
* ``description``: the run that a backend is opened for; ``events``: sends events to standard logging.
"""

from __future__ import annotations

from tracker_daemon.inprocess.csv_backend import CSVBackend
from tracker_daemon.inprocess.mlflow_backend import MLflowBackend
from tracker_daemon.inprocess.wandb_backend import WandbBackend

__all__ = ["CSVBackend", "MLflowBackend", "WandbBackend"]
