"""Imports the built-in backends for this process, from the daemon's package, when one is asked for.

Nothing is imported before that, so that the client alone needs grpcio and protobuf only.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from tracker_client.backends.built_in import BuiltInClass
from tracker_client.errors import BackendNotInstalled

if TYPE_CHECKING:
    # Under their own names, which is how a type checker is told that others may import them from here.
    from tracker_daemon.inprocess import CSVBackend as CSVBackend  # noqa: PLC0414
    from tracker_daemon.inprocess import MLflowBackend as MLflowBackend  # noqa: PLC0414
    from tracker_daemon.inprocess import WandbBackend as WandbBackend  # noqa: PLC0414

_EXTRAS = {"CSVBackend": "daemon", "MLflowBackend": "mlflow", "WandbBackend": "wandb"}
_PACKAGES = {"MLflowBackend": "mlflow", "WandbBackend": "wandb"}


def built_in_class(class_name: str) -> BuiltInClass:
    """The class of that name, one of ``backends.built_in.CLASSES``.

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
