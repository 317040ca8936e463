"""The names of ``ezpz.tracker``, for a script that changes only its import line.

>>> from tracker_client.ezpz_compat import setup_tracker, Tracker, NullTracker, TrackerBackend
>>> from tracker_client.ezpz_compat import register_backend, CSVBackend, MLflowBackend, WandbBackend
>>> from tracker_client.ezpz_compat import resolve_backend_names

``setup_tracker`` of this module has the default project of ``ezpz``: ``ezpz.<directory>.<script>``. In MLflow
the own value of a metric with aggregates is ``<metric>/local``, as in ``ezpz``.

The differences from ``ezpz``, all on purpose:

* ``setup_tracker`` sends to a daemon. The daemon holds the backends and their credentials, and aggregates the
  values of all ranks. With ``endpoint="inprocess"``, or TRACKER_ENDPOINT=inprocess, the backends are in the
  script's process. There, as in ``ezpz``, only rank 0 records, and nothing is aggregated.
* CSV rows and MLflow's points are written in the background, within a fraction of a second after ``log``, and
  completely before ``finish`` returns. A CSV row always has its step. A file is appended to, never rewritten.
  The files of an earlier run in the same directory are moved to ``runs/``. Without ``outdir`` the files are
  in the working directory, as in ``ezpz``, unless a daemon's settings name another one.
* W&B's rows have the column ``step``, the axis of all charts. W&B works offline without a key.
* MLflow's run is not the active run of the process: MLflow's own ``log_metric()`` and the like do not record
  to it. Parameters that describe the system begin with ``tracker.``.
* If several processes run and the rank is unknown, that is an error; ``ezpz`` takes rank 0.
* A tracker finishes by itself at exit, as failed after an uncaught exception. It is a context manager.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tracker_client
from tracker_client.backends.base import TrackerBackend, register_backend
from tracker_client.inprocess.opening import DEFAULT_BACKENDS
from tracker_client.settings.reading import backends_of, given_project
from tracker_client.setup import set_up
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
    "resolve_backend_names",
    "setup_tracker",
]

_PACKAGE = "ezpz"


def setup_tracker(
    project_name: str | None = None,
    backends: str | Sequence[str] | None = None,
    config: Any = None,
    outdir: str | os.PathLike[str] | None = None,
    rank: int | None = None,
    run_id: str | None = None,
    endpoint: str | os.PathLike[str] | None = None,
    run_key: str | None = None,
    **kwargs: Any,
) -> Tracker:
    """Join a run and return its tracker; see :func:`tracker_client.setup_tracker`.

    If neither the argument nor a variable gives the project, it is ``ezpz.<directory>.<script>``. If nobody
    names an output directory, it is the working directory.
    """
    project = given_project(project_name) or _default_project(sys.modules)
    kwargs.setdefault("mlflow_own_name", "local")
    return set_up(
        project, backends, config, outdir, rank, run_id, endpoint, run_key, kwargs, default_outdir="."
    )


def resolve_backend_names(backends: str | Sequence[str] | None = None) -> list[str]:
    """Return the names of the backends that ``setup_tracker(backends=backends)`` uses; none for "none".

    If neither the argument nor a variable names backends, it is W&B, unless the daemon has another setting.
    """
    names = backends_of(backends) or DEFAULT_BACKENDS
    return [] if names == "none" else names.split(",")


def _default_project(modules: Mapping[str, Any]) -> str:
    file = getattr(modules.get("__main__"), "__file__", None)
    if file is None:
        return _PACKAGE
    path = Path(file)
    return f"{_PACKAGE}.{path.parent.stem}.{path.stem}"


@cache
def _mlflow_backend() -> type:
    """Return MLflow's backend with the names of ``ezpz``."""

    class MLflowBackend(tracker_client.MLflowBackend):
        __doc__ = tracker_client.MLflowBackend.__doc__

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **{"own_name": "local", **named})

    return MLflowBackend


def __getattr__(name: str) -> Any:
    """Import a built-in backend's class when a script asks for it."""
    if name == "MLflowBackend":
        return _mlflow_backend()
    if name in __all__:
        return getattr(tracker_client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
