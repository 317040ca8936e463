"""Backends by name: the built-in ones, and those that installed packages register.

A package registers a class under the entry-point group ``tracker_daemon.backends``. The class derives from
:class:`tracker_client.TrackerBackend`, or has its methods. A class that must keep a state of its own derives
from :class:`tracker_daemon.backends.base.Backend` instead. A module is imported only when its backend is
created.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec

from tracker_daemon.backends.base import Backend
from tracker_daemon.errors import SettingsError
from tracker_daemon.outbox.lanes import FILES_LANE
from tracker_protocol.extras import BACKEND_PACKAGES

ENTRY_POINT_GROUP = "tracker_daemon.backends"

_BUILT_IN = {
    "csv": "tracker_daemon.backends.csv.backend:CsvBackend",
    "memory": "tracker_daemon.backends.memory:MemoryBackend",
    "mlflow": "tracker_daemon.backends.mlflow.child:MlflowChildBackend",
    "wandb": "tracker_daemon.backends.wandb.child:WandbChildBackend",
}

ELSEWHERE = frozenset({"mlflow", "wandb"})
"""The backends whose files are not in the run's own directory; a registered one may write there."""


def known() -> list[str]:
    """Return the names that :func:`create` accepts, sorted."""
    return sorted({*_BUILT_IN, *_registered()})


def require(names: Iterable[str], where: str) -> None:
    """Check that there are backends of these names, and that their packages are installed.

    ``where`` says where the names stand, for the message. Nothing is imported.

    Raises:
        SettingsError: there is no such backend, or its package is not installed.
    """
    for name in names:
        if name in _BUILT_IN:
            _require_package(name)
        elif name not in _registered():
            raise SettingsError(f"{where}: {_unknown(name)}")


def create(name: str) -> Backend:
    """Create the backend of that name; it is not open yet.

    Raises:
        SettingsError: there is no such backend, or its package cannot be imported.
    """
    if name in _BUILT_IN:
        _require_package(name)
        module, _, attribute = _BUILT_IN[name].partition(":")
        return _instance(name, getattr(import_module(module), attribute))
    registered = _registered()
    if name not in registered:
        raise SettingsError(_unknown(name))
    try:
        found = registered[name].load()
    # A package's module is anyone's code: any error of its import means that this backend alone is missing.
    except Exception as error:
        raise SettingsError(
            f"backend {name!r} is registered as {registered[name].value}, which cannot be imported "
            f"({type(error).__name__}: {error}); install what it needs where the daemon runs"
        ) from error
    return _instance(name, found)


def files_lanes(cursors: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the cursors of the lanes for files to begin along with ``cursors`` (backends' names and states).

    A cursor that has a state already has no lane to begin.
    """
    return {name + FILES_LANE: b"" for name, state in cursors.items() if not state and _has_files_lane(name)}


def _has_files_lane(name: str) -> bool:
    try:
        return create(name).separate_files
    except SettingsError:  # reported when the backend is opened
        return False


def _require_package(name: str) -> None:
    package = BACKEND_PACKAGES.get(name)
    # Searched for and not imported: an import takes seconds, and happens in the backend's own process.
    if package is not None and find_spec(package) is None:
        raise SettingsError(
            f"backend {name!r} needs the package {package}, which is not installed; run "
            f"pip install 'tracker-daemon[{name}]' where the daemon runs"
        )


def _registered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _instance(name: str, found: object) -> Backend:
    if isinstance(found, type) and issubclass(found, Backend):
        return found()
    # Imported for registered classes alone: the client's package is a tenth of a daemon's imports.
    from tracker_client.backends.calls import is_backend_class  # noqa: PLC0415
    from tracker_daemon.backends.third_party.installed_class import InstalledClassBackend  # noqa: PLC0415

    if is_backend_class(found):
        return InstalledClassBackend(name, found)
    raise SettingsError(
        f"backend {name!r} is registered as {found!r}, which is no Backend class: it has neither the methods "
        "of tracker_client.TrackerBackend nor those of tracker_daemon.backends.base.Backend"
    )


def _unknown(name: str) -> str:
    here = known()
    listed = ", ".join(here)
    near = difflib.get_close_matches(name.lower(), here, n=1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return (
        f"there is no backend {name!r}{meant}; there are: {listed}; an installed package can add one "
        f"by the entry-point group {ENTRY_POINT_GROUP}, and a script its own classes by register_backend"
    )
