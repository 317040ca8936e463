"""Recorded runs: found below a directory, and read from their own files, without a daemon.

* ``finding``: the runs below a directory, and the one that a name means.
* ``run``: one run, from its manifest. ``metrics``: its ``metrics.csv``.
"""

from tracker_client.recorded.finding import read, runs
from tracker_client.recorded.metrics import FinalValue
from tracker_client.recorded.run import BackendPlace, RecordedRun

__all__ = ["BackendPlace", "FinalValue", "RecordedRun", "read", "runs"]
