"""The public base class of backends, :class:`TrackerBackend`, and their registration by name."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tracker_client.backends.calls import AnyBackend, is_backend_class
from tracker_client.errors import SettingsError

_registered: dict[str, type[AnyBackend]] = {}
_registered_lock = threading.Lock()


class TrackerBackend(ABC):
    """A destination for one run. Derive a class from it, and register the class by :func:`register_backend`.

    The constructor gets ``project_name``, ``config``, ``outdir`` and ``rank`` as keyword arguments, as far as
    it has parameters for them. It also gets the keyword arguments of ``setup_tracker`` that belong to the
    backend: the items of the dict with the backend's name, and other arguments that the constructor has
    parameters for.

    ``step``, ``commit`` and ``caption`` are given by keyword.

    With a daemon, the constructor and all methods are called on one thread of the backend's own. With
    ``endpoint="inprocess"`` they are called on the threads that call the tracker. An exception of a method is
    caught, counted and warned about once.
    """

    name: ClassVar[str] = ""
    """The backend's name in messages; if empty, the name that the class is registered under."""

    @abstractmethod
    def log(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool = True) -> None:  # noqa: FBT001, FBT002 - the signature that W&B's and the seed's users know
        """Record one row.

        Args:
            metrics: numbers and texts by name.
            step: the row's training step.
            commit: False if further calls add to the same row.
        """

    @abstractmethod
    def log_config(self, config: Mapping[str, Any]) -> None:
        """Record a part of the run's configuration; merge it into the earlier parts."""

    @abstractmethod
    def finish(self) -> None:
        """Flush and close: the run has ended for this backend. This is the last call, and made once."""

    def finish_with(self, exit_code: int) -> None:  # noqa: ARG002 - for classes that record how a run ended
        """Finish with the script's ``exit_code``, 0 for success; calls :meth:`finish` unless overridden."""
        self.finish()

    def log_table(self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]]) -> None:  # noqa: B027 - optional
        """Record a table; does nothing unless overridden.

        Args:
            key: the table's name.
            columns: names of the columns.
            data: rows, each with one cell for each column.
        """

    def log_image(self, key: str, image_path: str | os.PathLike[str], caption: str | None = None) -> None:  # noqa: B027 - optional
        """Record an image; does nothing unless overridden.

        Args:
            key: the image's name.
            image_path: the image, as the script gave it to :meth:`Tracker.log_image`.
            caption: a text for the image.
        """

    def log_artifacts(self, paths: Mapping[str, Any]) -> None:  # noqa: B027 - optional
        """Record files and directories, a path for each label; does nothing unless overridden."""

    def watch(self, model: Any, **kwargs: Any) -> None:  # noqa: B027 - optional
        """Begin to watch a model's parameters; does nothing unless overridden.

        ``kwargs`` are the arguments that the script gave, without any default.
        """

    def unwatch(self, model: Any = None) -> None:  # noqa: B027 - optional
        """Stop watching a model, or all models if None; does nothing unless overridden."""


def register_backend(name: str, cls: type[AnyBackend]) -> None:
    """Make ``cls`` usable as ``backends="name"`` in later calls of ``setup_tracker``.

    Call it on every rank. The class is constructed in the primary rank's process, on its own thread. It
    receives the rows that the daemon records, aggregates included. It also receives the primary rank's
    tables, images, artifacts and ``watch`` calls, as the script gives them to the tracker.

    Args:
        name: the backend's name; case and outer spaces do not matter. If the daemon has a backend of that
            name (``csv``), the name means ``cls`` in runs of this script. A name that is registered again
            means the later class.
        cls: a class derived from :class:`TrackerBackend`, or with the methods ``log(metrics, step, commit)``
            and ``finish()``. Of the other methods it may leave out any.

    Raises:
        SettingsError: ``name`` is empty, "none" or has a comma, or ``cls`` is not such a class.
    """
    wanted = _backend_name(name)
    if not wanted or wanted == "none" or "," in wanted or not wanted.isprintable():
        raise SettingsError(
            f"a backend cannot have the name {name!r}; its name is a text without commas, and not 'none'"
        )
    if not is_backend_class(cls):
        raise SettingsError(
            f"backend {wanted!r} is given as {cls!r}; it must be a class with the methods log and finish, "
            "such as one derived from tracker_client.TrackerBackend"
        )
    with _registered_lock:
        _registered[wanted] = cls


def _backend_name(name: object) -> str:
    return name.strip().lower() if isinstance(name, str) else ""


def registered_backends() -> dict[str, type[AnyBackend]]:
    """Return the classes that this process has registered, by name."""
    with _registered_lock:
        return dict(_registered)
