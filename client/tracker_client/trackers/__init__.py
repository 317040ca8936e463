"""Trackers: what ``setup_tracker`` returns to a training script.

* ``tracker``: :class:`Tracker`, over backends in the script's own process; what all trackers share.
* ``remote_tracker``: the tracker that streams to a daemon.
* ``null_tracker``: the tracker that records nothing.
* ``remote_runs``: the handles of a run whose backends are at the daemon.
* ``introduction``: the first message of a tracker to the daemon.
* ``exit_code``: the code with which the interpreter is about to end.
* ``status``: the answer of ``Tracker.status()``.
"""
