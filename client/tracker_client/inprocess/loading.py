"""Imports the classes of the built-in backends from the daemon's package, when a script asks for one.

Nothing is imported before that: without the daemon's package the client needs grpcio and protobuf only.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

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


def class_or_stand_in(name: str) -> Any:
    """Return the class of the built-in backend ``name``; if it cannot be imported, one that says so.

    The stand-in raises :class:`BackendNotInstalled` when it is constructed. So where a package is missing, a
    script may still import the name, and ``from tracker_client import *`` and ``hasattr`` work.
    """
    try:
        return built_in_class(name)
    except BackendNotInstalled as missing:
        return _stand_in(CLASSES[name], str(missing))


@cache
def _stand_in(class_name: str, reason: str) -> type:
    def refuse(*_: object, **__: object) -> None:
        raise BackendNotInstalled(reason)

    return type(class_name, (), {"__init__": refuse, "__doc__": reason, "__module__": "tracker_client"})


def _advice(name: str, reason: str) -> str:
    extra = name if name in BACKEND_PACKAGES else "daemon"
    return f"{CLASSES[name]} cannot be used: {reason}; run pip install 'tracker-daemon[{extra}]'"
