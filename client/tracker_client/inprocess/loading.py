"""Imports the classes of the built-in backends from the daemon's package, when a script asks for one.

Nothing is imported before that: without the daemon's package the client needs grpcio and protobuf only.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from tracker_client.backends.built_in import CLASSES, BuiltInClass
from tracker_client.errors import BackendNotInstalled
from tracker_protocol.extras import BACKEND_PACKAGES

if TYPE_CHECKING:
    # `X as X` declares to a type checker that other modules may import X from here.
    from tracker_daemon.inprocess import CSVBackend as CSVBackend  # noqa: PLC0414
    from tracker_daemon.inprocess import MLflowBackend as MLflowBackend  # noqa: PLC0414
    from tracker_daemon.inprocess import WandbBackend as WandbBackend  # noqa: PLC0414


def built_in_class(name: str) -> BuiltInClass:
    """Import the class of the built-in backend ``name``, a key of ``backends.built_in.CLASSES``.

    Raises:
        BackendNotInstalled: a package that the class needs is not installed.
    """
    package = BACKEND_PACKAGES.get(name)
    # Looked up and not imported: an SDK takes seconds, and the class imports it when it is constructed.
    if package is not None and find_spec(package) is None:
        raise BackendNotInstalled(_advice(name, f"the package {package} is not installed"))
    try:
        from tracker_daemon import inprocess  # noqa: PLC0415 - the client alone does not have it
    except ImportError as error:
        raise BackendNotInstalled(_advice(name, str(error))) from error
    found: BuiltInClass = getattr(inprocess, CLASSES[name])
    return found


def _advice(name: str, reason: str) -> str:
    extra = name if name in BACKEND_PACKAGES else "daemon"
    return f"{CLASSES[name]} cannot be used: {reason}; run pip install 'tracker-daemon[{extra}]'"
