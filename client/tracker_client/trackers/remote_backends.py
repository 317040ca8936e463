"""The handles of backends at the daemon. A handle passes its calls to the tracker."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tracker_client.backends.base import TrackerBackend
from tracker_client.errors import NotRemote
from tracker_client.trackers.logged_values import RunConfig
from tracker_client.trackers.mlflow_run import MlflowRun
from tracker_client.trackers.remote_handle import OWN_METHODS, ReadHandle
from tracker_client.trackers.wandb_run import WandbRun
from tracker_client.values.refusals import Refusals

if TYPE_CHECKING:
    from tracker_client.trackers.tracker import Tracker


class RemoteBackend(TrackerBackend):
    """A backend at the daemon. Its calls are calls of the tracker, and so reach all backends of the run."""

    def __init__(
        self, name: str, tracker: Tracker, read: ReadHandle, run: WandbRun | MlflowRun | None
    ) -> None:
        self.name = name  # type: ignore[misc]  # each is another backend
        self._tracker = tracker
        self._read = read
        self._run = run

    def __copy__(self) -> RemoteBackend:
        return self

    def __deepcopy__(self, _: object) -> RemoteBackend:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return backend_of, (self._tracker, self.name)

    @property
    def run(self) -> WandbRun | MlflowRun:
        """The handle of the backend's run, for W&B and MLflow.

        Raises:
            NotRemote: the backend has no run of its own.
        """
        if self._run is None:
            raise NotRemote(f"the backend {self.name!r} has no run of its own; use {OWN_METHODS}")
        return self._run

    @property
    def run_url(self) -> str | None:
        """The address of the run's page at W&B or on an MLflow server; None for local stores and offline."""
        return self._read("url" if self.name == "wandb" else "run_url")

    def log(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool = True) -> None:  # noqa: FBT001, FBT002 - as TrackerBackend
        """Call the tracker's ``log``."""
        self._tracker.log(metrics, step, commit)

    def log_config(self, config: Any) -> None:
        """Call the tracker's ``log_config``."""
        self._tracker.log_config(config)

    def log_table(self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]]) -> None:
        """Call the tracker's ``log_table``."""
        self._tracker.log_table(key, columns, data)

    def log_image(self, key: str, image_path: str | os.PathLike[str], caption: str | None = None) -> None:
        """Call the tracker's ``log_image``."""
        self._tracker.log_image(key, image_path, caption)

    def log_artifacts(self, paths: Mapping[str, Any]) -> None:
        """Call the tracker's ``log_artifacts``."""
        self._tracker.log_artifacts(paths)

    def watch(self, model: Any, **kwargs: Any) -> None:
        """Call the tracker's ``watch``."""
        self._tracker.watch(model, **kwargs)

    def finish(self) -> None:
        """Call the tracker's ``finish``, which ends this rank's part of the run in all backends."""
        self._tracker.finish()

    def __getattr__(self, name: str) -> NoReturn:
        raise NotRemote(
            f"the backend {self.name!r} is at the daemon, and its handle has no {name!r}; use {OWN_METHODS}"
        )


class RemoteCsvBackend(RemoteBackend):
    """The CSV backend at the daemon, with the attribute that ``ezpz``'s ``History`` reads and sets.

    ``History`` moves the file by setting it, and deletes the file at the place before. So setting it changes
    nothing: the daemon writes where it does.
    """

    @property
    def _csv_path(self) -> Path:
        path = self._read("path")
        if path is None:
            raise NotRemote("the path of metrics.csv is not known here yet")
        return Path(path)

    @_csv_path.setter
    def _csv_path(self, path: object) -> None:
        """Do nothing: the file stays where the daemon writes it."""


class RemoteMlflowBackend(RemoteBackend):
    """The MLflow backend at the daemon, with the attributes that ``ezpz``'s ``History`` reads."""

    @property
    def _active(self) -> bool:
        """True if the run exists."""
        return self._run_id is not None

    @property
    def _run_id(self) -> str | None:
        return self._read("run_id")

    @property
    def _experiment_id(self) -> str | None:
        return self._read("experiment_id")

    @property
    def _tracking_uri(self) -> str | None:
        return self._read("tracking_uri")


def backend_of(tracker: Tracker, name: str) -> Any:
    """Return the handle that a pickled handle stands for; None in another process."""
    return tracker.get_backend(name)


_KINDS: Mapping[str, type[RemoteBackend]] = {"csv": RemoteCsvBackend, "mlflow": RemoteMlflowBackend}


class RemoteBackends:
    """The handles of a tracker's backends, each made once.

    ``read(backend, name)`` returns an attribute of a backend that the daemon has sent.
    """

    def __init__(
        self,
        tracker: Tracker,
        read: Callable[[str, str], str | None],
        configuration: dict[str, Any],
        refusals: Refusals,
    ) -> None:
        self._refusals = refusals
        self._tracker = tracker
        self._read = read
        self._config = RunConfig(configuration, tracker.log_config)
        self._made: dict[str, RemoteBackend] = {}
        self._wandb_run: WandbRun | None = None

    def get(self, name: str) -> RemoteBackend:
        """Return the handle of the backend ``name``."""
        if name not in self._made:
            read = partial(self._read, name)
            kind = _KINDS.get(name, RemoteBackend)
            self._made.setdefault(name, kind(name, self._tracker, read, self._run(name, read)))
        return self._made[name]

    @property
    def wandb_run(self) -> WandbRun:
        """The handle of the W&B run."""
        if self._wandb_run is None:
            self._wandb_run = WandbRun(
                self._tracker, partial(self._read, "wandb"), self._config, self._refusals
            )
        return self._wandb_run

    def _run(self, name: str, read: ReadHandle) -> WandbRun | MlflowRun | None:
        if name == "wandb":
            return self.wandb_run
        return MlflowRun(read, self._tracker, "mlflow_run") if name == "mlflow" else None
