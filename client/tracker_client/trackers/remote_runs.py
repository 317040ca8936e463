"""What a script holds of the backends that live at the daemon: remote handles.

They read what the daemon tells (ids, names, addresses), and what they are given to record goes to the
tracker's own methods. What cannot exist here, away from the backend's process and its credentials,
raises :class:`~tracker_client.errors.NotRemote`, an AttributeError, which says what to use instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from tracker_client.backends.base import TrackerBackend
from tracker_client.errors import NotLoggedHere, NotRemote

if TYPE_CHECKING:
    from tracker_client.trackers.tracker import Tracker

ReadHandles = Callable[[], Mapping[str, str]]
_OWN_METHODS = "the tracker's own methods"
_STORED_RUN = "mlflow.MlflowClient(mlflow_run.tracking_uri).get_run(mlflow_run.info.run_id)"


class _Handle:
    """Reads attributes from what the daemon told; private attributes alone can be set."""

    _kind: ClassVar[str]
    _told: ClassVar[frozenset[str]]
    """Attributes that are texts which the daemon tells; None where it does not."""
    _instead: ClassVar[Mapping[str, str]] = {}

    def __init__(self, read: ReadHandles) -> None:
        self._read = read

    def __getattr__(self, name: str) -> str | None:
        if name in self._told:
            return self._read().get(name)
        raise NotRemote(
            f"{self._kind}.{name} does not exist here, since the run is written at the daemon; use "
            f"{self._instead.get(name, _OWN_METHODS)} instead"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise NotRemote(
                f"{self._kind}.{name} cannot be set here, since the run is written at the daemon; give it to "
                "setup_tracker, or log it as configuration"
            )
        object.__setattr__(self, name, value)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self._told})


class _LoggedValues(MutableMapping[str, Any]):
    """What this process has logged of one kind; read and set as items and as attributes."""

    _kind: ClassVar[str]
    _values: dict[str, Any]

    def __delitem__(self, name: str) -> NoReturn:
        raise NotRemote(f"{self._kind}[{name!r}] cannot be deleted: what is logged stays; log another value")

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class RunConfig(_LoggedValues):
    """The configuration that this process has logged so far; what is set here is logged.

    Values can be read and set as items and as attributes. What other ranks log is not here.
    """

    _kind = "config"

    def __init__(self, values: dict[str, Any], log_config: Callable[[Mapping[str, Any]], None]) -> None:
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "_log_config", log_config)

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise NotLoggedHere(
                f"this process has logged no configuration {name!r}; what other ranks log is not known here: "
                "read it of the run, at wandb_run.url"
            ) from None

    def __setitem__(self, name: str, value: Any) -> None:
        self._log_config({name: value})

    def update(self, *others: Any, allow_val_change: bool | None = None, **values: Any) -> None:  # noqa: ARG002 - W&B's
        """Log all of ``others`` and ``values`` as one configuration; values may change."""
        self._log_config({key: value for other in (*others, values) for key, value in dict(other).items()})

    def as_dict(self) -> dict[str, Any]:
        """A copy, as a plain dict."""
        return dict(self._values)


class RunSummary(_LoggedValues):
    """What a run ends with. The last value that is logged of a metric is its summary.

    So what is set here, as an item or as an attribute, is logged with the next row. Reading gives what was
    set here, by this process; the last values of all ranks are where the run is, at its ``url``.
    """

    _kind = "summary"

    def __init__(self, log: Callable[..., None]) -> None:
        object.__setattr__(self, "_log", log)
        object.__setattr__(self, "_values", {})

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise NotLoggedHere(
                f"summary[{name!r}] was not set by this process, and that of what is logged is made at the "
                "daemon; keep the value that tracker.log was given, or read it of the run, at wandb_run.url "
                "or by wandb.Api().run(wandb_run.path).summary with a key of the script's own"
            ) from None

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def update(self, *others: Any, **values: Any) -> None:
        """Log all of ``others`` and ``values`` with the next row."""
        new = {key: value for other in (*others, values) for key, value in dict(other).items()}
        self._values.update(new)
        self._log(new, commit=False)


class WandbRun(_Handle):
    """The W&B run of a tracker. ``url`` and ``project_url`` are None offline."""

    _kind = "wandb_run"
    _told = frozenset(
        ("id", "name", "project", "entity", "group", "job_type", "url", "project_url", "dir", "mode")
    )
    _instead: ClassVar[Mapping[str, str]] = {
        "define_metric": "a metric of its own for another axis (every chart has `step`)",
        "use_artifact": "wandb.Api().artifact(…), with a key of the script's own,",
        "log_artifact": "tracker.log_artifacts({label: path})",
        "log_code": "tracker.log_artifacts({'code': directory})",
        "save": "tracker.log_artifacts({label: path})",
        "alert": "wandb.Api(), with a key of the script's own,",
        "step": "tracker.log(…, step=…) with a count of the script's own",
        "tags": "setup_tracker(…, tags=[…])",
        "notes": "setup_tracker(…, notes=…)",
    }

    def __init__(self, tracker: Tracker, read: ReadHandles, config: RunConfig) -> None:
        super().__init__(read)
        self._tracker = tracker
        self._config = config
        self._summary = RunSummary(tracker.log)

    @property
    def config(self) -> RunConfig:
        """The configuration; what is set in it is logged."""
        return self._config

    @property
    def summary(self) -> RunSummary:
        """What the run ends with; what is set in it is logged."""
        return self._summary

    @property
    def offline(self) -> bool:
        """Whether nothing is uploaded."""
        return self._read().get("mode") in {"offline", "disabled"}

    @property
    def path(self) -> str | None:
        """``entity/project/id``, where all three are known."""
        told = self._read()
        parts = [told.get(name) for name in ("entity", "project", "id")]
        return "/".join(part for part in parts if part) if all(parts) else None

    def get_url(self) -> str | None:
        """The same as ``url``."""
        return self._read().get("url")

    def get_project_url(self) -> str | None:
        """The same as ``project_url``."""
        return self._read().get("project_url")

    def project_name(self) -> str | None:
        """The same as ``project``."""
        return self._read().get("project")

    def log(self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None) -> None:  # noqa: FBT001 - W&B's
        """As the tracker's ``log``: it is recorded in all of the run's backends."""
        self._tracker.log(data, step, commit is not False)

    def watch(self, models: Any, **kwargs: Any) -> None:
        """As the tracker's ``watch``."""
        _of(self._tracker, "watch")(models, **kwargs)

    def unwatch(self, *models: Any) -> None:
        """As the tracker's ``unwatch``."""
        _of(self._tracker, "unwatch")(*models)

    def finish(self, exit_code: int | None = None, **_: Any) -> None:
        """As the tracker's ``finish``: a rank's part of the run ends in all backends at once."""
        self._tracker.finish(exit_code or 0)


class MlflowInfo(_Handle):
    """What ``mlflow_run.info`` tells."""

    _kind = "mlflow_run.info"
    _told = frozenset(("run_id", "experiment_id", "run_name", "artifact_uri"))
    _instead: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("status", "start_time", "end_time", "user_id", "lifecycle_stage"),
        f"{_STORED_RUN}.info, where the script may read the store,",
    )

    @property
    def run_uuid(self) -> str | None:
        """The same as ``run_id``."""
        return self._read().get("run_id")


class MlflowRun(_Handle):
    """The MLflow run of a tracker."""

    _kind = "mlflow_run"
    _told = frozenset(("tracking_uri",))
    _instead: ClassVar[Mapping[str, str]] = {
        name: f"{_STORED_RUN}.{name}, where the script may read the store,"
        for name in ("data", "inputs", "outputs")
    }

    @property
    def info(self) -> MlflowInfo:
        """Its ids and names, and where its artifacts are."""
        return MlflowInfo(self._read)


class RemoteBackend(TrackerBackend):
    """A backend at the daemon; what it is given goes through the tracker, to all backends of the run.

    ``run`` is the handle of its run, for W&B and MLflow; ``run_url`` its page on an MLflow server.
    """

    def __init__(
        self, name: str, tracker: Tracker, read: ReadHandles, run: WandbRun | MlflowRun | None
    ) -> None:
        self.name = name  # type: ignore[misc]  # each is another backend
        self._tracker = tracker
        self._read = read
        self._run = run

    @property
    def run(self) -> WandbRun | MlflowRun:
        """The handle of its run."""
        if self._run is None:
            raise NotRemote(f"the backend {self.name!r} has no run of its own; use {_OWN_METHODS}")
        return self._run

    @property
    def run_url(self) -> str | None:
        """The run's page: at W&B, or on an MLflow server; None for local stores and offline."""
        told = self._read()
        return told.get("run_url") or told.get("url")

    def log(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool = True) -> None:  # noqa: FBT001, FBT002 - as TrackerBackend
        """As the tracker's ``log``."""
        self._tracker.log(metrics, step, commit)

    def log_config(self, config: Any) -> None:
        """As the tracker's ``log_config``."""
        self._tracker.log_config(config)

    def log_table(self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]]) -> None:
        """As the tracker's ``log_table``."""
        _of(self._tracker, "log_table")(key, columns, data)

    def log_image(self, key: str, image_path: str | os.PathLike[str], caption: str | None = None) -> None:
        """As the tracker's ``log_image``."""
        _of(self._tracker, "log_image")(key, image_path, caption)

    def log_artifacts(self, artifacts: Mapping[str, Any]) -> None:
        """As the tracker's ``log_artifacts``."""
        _of(self._tracker, "log_artifacts")(artifacts)

    def watch(self, model: Any, **kwargs: Any) -> None:
        """As the tracker's ``watch``."""
        _of(self._tracker, "watch")(model, **kwargs)

    def finish(self) -> None:
        """As the tracker's ``finish``: a rank's part of the run ends in all backends at once."""
        self._tracker.finish()

    def __getattr__(self, name: str) -> NoReturn:
        raise NotRemote(
            f"the backend {self.name!r} is at the daemon, and its handle has no {name!r}; use {_OWN_METHODS}"
        )


def _of(tracker: Tracker, method: str) -> Callable[..., None]:
    """A method of the tracker that not all of its kinds may have."""
    found: Callable[..., None] = getattr(tracker, method)
    return found


class RemoteBackends:
    """The handles of a tracker's backends, each made once. ``read`` gives what the daemon tells of one."""

    def __init__(
        self, tracker: Tracker, read: Callable[[str], Mapping[str, str]], configuration: dict[str, Any]
    ) -> None:
        self._tracker = tracker
        self._read = read
        self._config = RunConfig(configuration, tracker.log_config)
        self._made: dict[str, RemoteBackend] = {}

    def get(self, name: str) -> RemoteBackend:
        """The handle of the backend of that name."""
        if name not in self._made:
            read = partial(self._read, name)
            self._made.setdefault(name, RemoteBackend(name, self._tracker, read, self._run(name, read)))
        return self._made[name]

    def _run(self, name: str, read: ReadHandles) -> WandbRun | MlflowRun | None:
        if name == "wandb":
            return WandbRun(self._tracker, read, self._config)
        return MlflowRun(read) if name == "mlflow" else None
