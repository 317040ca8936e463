"""Trackers: what ``setup_tracker`` returns to a training script.

* ``tracker``: :class:`Tracker`, over backends in the script's own process, and the base of all trackers.
* ``remote_tracker``: the tracker that streams to a daemon; ``remote_run``: what it knows of its run.
* ``null_tracker``: the tracker that records nothing.
* ``remote_backends``: the handles of backends at the daemon, on ``remote_handle``, their base.
* ``wandb_run``, ``mlflow_run``: the handles of runs at the daemon.
* ``logged_values``: the configuration and summary that such a handle offers.
* ``introduction``: the part of a tracker's first message that describes the process and its settings.
* ``exit_code``: the code with which the interpreter ends.
* ``worker_exit``: the end of a worker of ``multiprocessing``, which has no exit functions.
* ``calls_elsewhere``: counts the calls of a tracker's copies in other processes.
* ``status``: the answer of ``Tracker.status()``.
"""
