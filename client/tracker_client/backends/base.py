"""What third parties record to: :class:`TrackerBackend`, and the names they register it under."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tracker_client.errors import SettingsError

_registered: dict[str, type[TrackerBackend]] = {}
_registered_lock = threading.Lock()


class TrackerBackend(ABC):
    """A destination for one run. Subclass it, and name it with :func:`register_backend`.

    It is constructed with ``project_name``, ``config``, ``outdir`` and ``rank`` as keyword arguments, and
    with those of ``setup_tracker`` that are its own: the dict of its name, and bare ones that its
    constructor takes. All of its methods are called on one thread, that of its construction. What
    one raises is contained.
    """

    name: ClassVar[str] = ""
    """How messages call it; the name that it is registered under, if this is empty."""

    @abstractmethod
    def log(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool = True) -> None:  # noqa: FBT001, FBT002 - the signature that W&B's and the seed's users know
        """Take one row: numbers and texts by name."""

    @abstractmethod
    def log_config(self, config: Mapping[str, Any]) -> None:
        """Take a part of the run's configuration, to be merged into what came before."""

    @abstractmethod
    def finish(self) -> None:
        """The run is over, as far as this backend is concerned: flush and close. Called once, at last."""

    def finish_with(self, exit_code: int) -> None:  # noqa: ARG002 - for those that tell how a run ended
        """As :meth:`finish`, with what the script ends with, 0 for success; calls it unless overridden."""
        self.finish()

    def log_table(self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]]) -> None:  # noqa: B027 - optional
        """Take a table; does nothing unless overridden."""

    def log_image(self, key: str, image_path: str | os.PathLike[str], caption: str | None = None) -> None:  # noqa: B027 - optional
        """Take an image; does nothing unless overridden."""

    def log_artifacts(self, artifacts: Mapping[str, Any]) -> None:  # noqa: B027 - optional
        """Take files and directories by label; does nothing unless overridden."""

    def watch(self, model: Any, **kwargs: Any) -> None:  # noqa: B027 - optional
        """Follow a model's parameters; does nothing unless overridden."""

    def unwatch(self, model: Any = None) -> None:  # noqa: B027 - optional
        """Follow a model, or all, no more; does nothing unless overridden."""


def register_backend(name: str, cls: type[TrackerBackend]) -> None:
    """Make ``cls`` usable as ``backends="name"`` by the ``setup_tracker`` calls that follow.

    Call it on every rank. The class then lives in the primary rank's process, on a thread of its own,
    and is fed back what the daemon records, aggregates included. Tables, images, artifacts and ``watch`` of
    that rank are given to it as the script gives them to the tracker. A name that the daemon has too
    (``csv``) means the class in runs of this script; registered again, the later class counts.

    Raises:
        SettingsError: the name cannot be one, or ``cls`` is no class derived from :class:`TrackerBackend`.
    """
    wanted = _backend_name(name)
    if not wanted or wanted == "none" or "," in wanted or not wanted.isprintable():
        raise SettingsError(
            f"a backend cannot be called {name!r}; its name is a text without commas, and not 'none'"
        )
    if not _is_backend_class(cls):
        raise SettingsError(
            f"backend {wanted!r} is given as {cls!r}; it must be a class derived from "
            "tracker_client.TrackerBackend"
        )
    with _registered_lock:
        _registered[wanted] = cls


def _backend_name(name: object) -> str:
    return name.strip().lower() if isinstance(name, str) else ""


def _is_backend_class(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, TrackerBackend)


def registered_backends() -> dict[str, type[TrackerBackend]]:
    """The classes that this process has registered, by name."""
    with _registered_lock:
        return dict(_registered)
