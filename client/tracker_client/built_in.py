"""The door to the backends that need more than the client: the only module that opens the daemon's package.

Nothing is imported before one of the classes is asked for, so that the client alone needs grpcio and
protobuf only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from tracker_client.backend import TrackerBackend
from tracker_client.errors import BackendNotInstalled

if TYPE_CHECKING:
    # Under their own names, which is how a type checker is told that others may import them from here.
    from tracker_daemon.inprocess import CSVBackend as CSVBackend  # noqa: PLC0414
    from tracker_daemon.inprocess import MLflowBackend as MLflowBackend  # noqa: PLC0414
    from tracker_daemon.inprocess import WandbBackend as WandbBackend  # noqa: PLC0414

CLASSES = {"csv": "CSVBackend", "mlflow": "MLflowBackend", "wandb": "WandbBackend"}
"""By the names that ``setup_tracker`` takes."""
_EXTRAS = {"CSVBackend": "daemon", "MLflowBackend": "mlflow", "WandbBackend": "wandb"}
_PACKAGES = {"MLflowBackend": "mlflow", "WandbBackend": "wandb"}


@dataclass(frozen=True)
class RunArguments:
    """What every backend of a run in this process is told; ``continues``: the run's id was given to it."""

    project_name: str | None
    config: Any
    outdir: str | os.PathLike[str] | None
    rank: int
    run_id: str
    continues: bool


class BuiltInClass(Protocol):
    """What the built-in classes have beside :class:`TrackerBackend`'s own."""

    def for_run(self, run: RunArguments, options: Mapping[str, Any]) -> TrackerBackend:
        """Begin ``run`` with the backend's own options."""

    def option_names(self) -> frozenset[str]:
        """The options that it takes."""


def built_in_class(class_name: str) -> BuiltInClass:
    """The class of that name, one of :data:`CLASSES`.

    Raises:
        BackendNotInstalled: what it needs is not installed.
    """
    package = _PACKAGES.get(class_name)
    # Looked up and not imported: an SDK takes seconds, and the class imports it when it is constructed.
    if package is not None and find_spec(package) is None:
        raise BackendNotInstalled(_advice(class_name, f"the package {package} is not installed"))
    try:
        from tracker_daemon import inprocess  # noqa: PLC0415 - the client alone does not have it
    except ImportError as error:
        raise BackendNotInstalled(_advice(class_name, str(error))) from error
    found: BuiltInClass = getattr(inprocess, class_name)
    return found


def _advice(class_name: str, reason: str) -> str:
    return f"{class_name} cannot be used: {reason}; run pip install 'tracker-daemon[{_EXTRAS[class_name]}]'"
