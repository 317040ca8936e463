"""The object that a training script holds: :class:`Tracker`, over backends in the script's own process.

``setup_tracker`` returns one of three kinds. ``RemoteTracker`` streams to a daemon. ``NullTracker`` records
nothing. :class:`Tracker` itself serves ``endpoint="inprocess"``. All trackers finish once, at the
interpreter's exit at the latest, and count later calls.

A tracker may be copied, as a part of a model or of a dataset. In its own process each copy is the tracker
itself. In another process, forked or not, a copy is *inert*: it counts calls and warns once.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tracker_client.backends.calls import AnyBackend, call, finish, name_of
from tracker_client.errors import SettingsError
from tracker_client.settings.metric_options import MetricDefinition, read_definition
from tracker_client.trackers.calls_elsewhere import CallsElsewhere
from tracker_client.trackers.exit_code import uncaught_code
from tracker_client.trackers.status import TrackerStatus
from tracker_client.trackers.worker_exit import watch_worker_exit
from tracker_client.values.arguments import exit_code_for, exit_code_of
from tracker_client.values.configuration import read_configuration
from tracker_client.values.refusals import Refusals
from tracker_client.values.tally import Tally
from tracker_client.values.untraced import untraced

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tracker_client.watch.options import WatchOptions

FINISH_TIMEOUT_S = 60.0

logger = logging.getLogger("tracker_client")
_trackers: weakref.WeakSet[Tracker] = weakref.WeakSet()
_by_id: weakref.WeakValueDictionary[str, Tracker] = weakref.WeakValueDictionary()


class Tracker:
    """Records a run. ``setup_tracker`` returns a tracker; all kinds of trackers have these methods.

    This class itself records through ``backends`` in this process, for ``endpoint="inprocess"``. A
    ``RemoteTracker`` sends to a daemon, and a :class:`NullTracker` records nothing. A tracker is a context
    manager, which calls :meth:`finish` at the end of its block.

    Any thread that the backends allow may call all methods. No method raises. An error of a backend is
    counted, warned about once for each of the backend's methods, and does not affect other backends.
    """

    def __init__(
        self,
        backends: Iterable[AnyBackend] = (),
        *,
        run_id: str | None = None,
        directory: Path | None = None,
    ) -> None:
        self._backends = tuple(backends)
        self._run_id = run_id
        self._directory = directory
        self._refusals = Refusals()
        self._closed = False
        self._inert = False
        self._calls_after_finish = Tally()
        self._backend_failures = Tally()
        self._not_closed = [True]  # whoever takes the element closes the tracker
        self._calls_elsewhere = CallsElsewhere()
        self._id = secrets.token_hex(8)
        _by_id[self._id] = self
        _trackers.add(self)
        watch_worker_exit(_finish_all)

    # ---- logging ---------------------------------------------------------------------------------

    @untraced
    def log(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool | None = True) -> None:  # noqa: FBT001, FBT002 - the signature of W&B's ``log``
        """Record ``metrics`` as they are now.

        Args:
            metrics: names and values: numbers, texts, and arrays or tensors of one element.
            step: the training step, an integer; None (the default) continues from the last step.
            commit: False keeps the row open for further calls with the same step; the default is True.
        """
        commits = commit is None or bool(commit)
        self._each("log()", lambda backend: backend.log(metrics, step=step, commit=commits))

    def log_config(self, config: Any) -> None:
        """Merge ``config`` into the run's configuration.

        Args:
            config: a nested dict, a dataclass, an ``argparse.Namespace``, a model of pydantic or the like.
        """
        read = None if isinstance(config, Mapping) else read_configuration(config)
        values = config if read is None else read.values
        self._each("log_config()", lambda backend: call(backend, "log_config", values))

    def define_metric(self, glob: str, step_metric: Any = None, summary: str | None = None) -> Any:
        """Define how backends show the metrics that ``glob`` fits; call this before they are logged.

        A definition precedes the rules of ``setup_tracker``. Of several that fit a metric, the most precise
        one decides. A metric that is recorded already keeps its axis. Without a daemon, W&B alone has
        definitions, and its globs end in a star.

        Args:
            glob: a metric's name, or a glob such as ``"val/*"``.
            step_metric: the metric that is their axis; ``"step"`` is the training step; None changes nothing.
            summary: the value that represents the run: "last", "min", "max", "mean" or "none"; None changes
                nothing. MLflow has it as a metric of its own, ``<name>.max``; CSV has none.

        Returns:
            The definition, which may be the ``step_metric`` of others; None if it cannot be used.
        """
        definition = self._definition(glob, step_metric, summary)
        if definition is not None:
            given = {"step_metric": definition.step_metric, "summary": definition.summary}
            named: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
            self._each(
                "define_metric()", lambda backend: call(backend, "define_metric", definition.name, **named)
            )
        return definition

    def _definition(self, glob: Any, step_metric: Any, summary: Any) -> MetricDefinition | None:
        try:
            return read_definition(glob, step_metric, summary)
        except SettingsError as error:
            self._refusals.warn_once(f"define_metric({glob!r})", f"it has no effect: {error}")
            return None

    def watch(self, model: Any, **options: Unpack[WatchOptions]) -> None:
        """Record statistics of a model's gradients and parameters, every ``log_freq`` backward passes.

        For each parameter these metrics are recorded:

        * ``gradients/<parameter>/norm``, ``/mean``, ``/std`` (of the population), ``/min`` and ``/max``, over
          the finite values;
        * ``gradients/<parameter>/nonfinite``, the number of other values;
        * ``gradients/<parameter>``, a histogram of 64 bins;
        * the same under ``parameters/``.

        They belong to the step of the next call of ``log()`` that commits. The primary rank records them,
        and so do the ranks that ``item_ranks`` names; the rank is then part of the name. They are not
        aggregated across ranks.

        Gradients are measured at the end of the backward pass, before clipping. They are accumulated over the
        micro-batches so far, and scaled if a gradient scaler has scaled them. Under FSDP, and under DDP
        (except in ``no_sync``), they are reduced over the ranks.

        Watch a model after wrapping it. Under FSDP each rank measures its own shards, without communication:
        in the first version the flat parameters, or their part of each parameter; in the second version the
        local parts.

        Of a sparse gradient the stored values are measured; on an accelerator the values of each look-up
        count separately. Of a complex tensor the moduli are measured. Frozen parameters have no gradient, and
        are measured together with the others.

        Args:
            model: a ``torch.nn.Module``, or several; names of the second begin with ``model1.``, and so on.
            **options: further arguments, by keyword.

                * ``log``: "gradients" (the default), "parameters", "all", or None for nothing.
                * ``log_freq``: a parameter is measured once in this many backward passes that reach it; the
                  default is 100.
                * ``idx``: the number in ``model<idx>.``.
                * W&B's ``criterion`` and ``log_graph`` have no effect.
        """
        self._each("watch()", lambda backend: call(backend, "watch", model, **options))

    def unwatch(self, model: Any = None) -> None:
        """Stop watching this model, these models, or (by default) all models; ``finish`` does so too."""
        self._each("unwatch()", lambda backend: call(backend, "unwatch", model))

    def log_table(self, key: str, columns: Any = None, data: Any = None, step: int | None = None) -> None:
        """Record a table as it is now. A later table with the same ``key`` replaces it.

        Args:
            key: the table's name.
            columns: the columns' names; None if ``data`` is a frame, which has names.
            data: rows, each with one cell for each column, or a pandas, polars or pyarrow frame.
            step: as in :meth:`log`, but None means the step of the last row.
        """
        self._each("log_table()", lambda backend: call(backend, "log_table", key, columns, data, step=step))

    def log_image(
        self, key: str, image_path: Any, caption: str | None = None, step: int | None = None
    ) -> None:
        """Record an image as it is now.

        Args:
            key: the image's name.
            image_path: a path, the bytes of an image file, a PIL image, a figure, or an array or tensor.
            caption: a text about the image.
            step: as in :meth:`log`, but None means the step of the last row.
        """
        self._each(
            "log_image()",
            lambda backend: call(backend, "log_image", key, image_path, caption=caption, step=step),
        )

    def log_artifacts(self, paths: Mapping[str, Any], step: int | None = None) -> None:
        """Record files and directories, in the background.

        Args:
            paths: a path for each label.
            step: as in :meth:`log`, but None means the step of the last row.
        """
        self._each("log_artifacts()", lambda backend: call(backend, "log_artifacts", paths, step=step))

    def _each(self, method: str, action: Callable[[AnyBackend], object]) -> None:
        if self._closed:
            self._count_late_call()
            return
        self._call_each(method, action)

    def _call_each(self, method: str, action: Callable[[AnyBackend], object]) -> None:
        for backend in self._backends:
            try:
                action(backend)
            except Exception as error:  # noqa: BLE001 - a backend is anyone's code, and training must continue
                self._backend_failures.add()
                self._refusals.warn_once(
                    f"{name_of(backend)}.{method}",
                    f"it raised {error!r}; the run continues; later failures of this call are only counted",
                )

    # ---- the end ---------------------------------------------------------------------------------

    def finish(
        self,
        exit_code: int = 0,
        wait: str = "files",  # noqa: ARG002 - without a daemon all values mean the same
        timeout: float = FINISH_TIMEOUT_S,  # noqa: ARG002 - each backend bounds its own end
    ) -> None:
        """End the run in each backend, which then has everything; a second call does nothing.

        Args:
            exit_code: 0, or the code that the run failed with.
            wait: "recorded", "files" or "delivered", which mean the same without a daemon.
            timeout: unused here; each backend bounds its own end.
        """
        if self._close_once():
            code = exit_code_for(exit_code)
            self._call_each("finish()", lambda backend: finish(backend, code))
            self._refusals.report()

    def _close_once(self) -> bool:
        """Close the tracker to further calls; return False if it was closed already."""
        self._closed = True
        try:
            return self._not_closed.pop()
        except IndexError:
            return False

    def _finish_at_exit(self, code: int | None) -> None:
        self.finish(code or 0)

    def __enter__(self) -> Tracker:  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.finish(exit_code_of(error))

    # ---- what it knows ---------------------------------------------------------------------------

    @property
    def run_id(self) -> str | None:
        """The run's id; None if the backends have no common id."""
        return self._run_id

    @property
    def attempt(self) -> int | None:
        """The number of this attempt at the run, from 1; None if the run has no id.

        Without a daemon only the CSV backend counts attempts.
        """
        counted = getattr(self.get_backend("csv"), "attempt", None)
        return counted if isinstance(counted, int) else None if self._run_id is None else 1

    @property
    def directory(self) -> Path | None:
        """The directory of the run's files; None if it is not known."""
        found = getattr(self.get_backend("csv"), "directory", None)
        return found if isinstance(found, Path) else self._directory

    def get_backend(self, name: str) -> Any:
        """Return the backend ``name``; None if the run has no such backend."""
        wanted = name.strip().lower()
        return next((backend for backend in self._backends if name_of(backend).lower() == wanted), None)

    @property
    def wandb_run(self) -> Any:
        """W&B's run: its ``id``, ``name``, ``project``, ``url``, ``config``; None without that backend."""
        return getattr(self.get_backend("wandb"), "run", None)

    @property
    def mlflow_run(self) -> Any:
        """MLflow's run: its ``info.run_id`` and the like; None without that backend."""
        return getattr(self.get_backend("mlflow"), "run", None)

    def status(self) -> TrackerStatus:
        """Return this process's own state: counts of failed, refused and late calls."""
        return TrackerStatus(
            state="disabled" if self._inert else "finished" if self._closed else "inprocess",
            refused_values=self._refusals.count,
            calls_after_finish=self._calls_after_finish.value,
            calls_elsewhere=self._calls_elsewhere.count,
            backend_failures=self._backend_failures.value,
        )

    # ---- after the end, and in other processes ---------------------------------------------------

    def _count_late_call(self) -> None:
        if self._inert:
            self._count_call_elsewhere()
            return
        self._calls_after_finish.add()
        self._refusals.warn_once("log()", "called after finish(); nothing more is recorded")

    def _count_call_elsewhere(self) -> None:
        if self._calls_elsewhere.add():
            logger.warning(
                "log() in process %d records nothing: its tracker is a copy of another process's tracker. "
                "Return the values to that process, or call setup_tracker in this one for a run of its own",
                os.getpid(),
            )

    def _make_inert(self) -> None:
        self._close_once()
        self._inert = True

    def __copy__(self) -> Tracker:
        return self

    def __deepcopy__(self, _: object) -> Tracker:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return inert_copy, (self._id, self._calls_elsewhere.address)


def calls_address(tracker: Tracker) -> str:
    """Return the text by which another process finds the count of the tracker's calls elsewhere."""
    return tracker._calls_elsewhere.address  # noqa: SLF001 - the same module's class


def inert_copy(tracker_id: str = "", calls_address: str = "") -> Tracker:
    """Return the tracker of that id if it is in this process; else an inert one, which counts calls."""
    known = _by_id.get(tracker_id)
    if known is not None:
        return known
    copy = Tracker()
    copy._make_inert()  # noqa: SLF001 - the same module's class
    copy._calls_elsewhere = CallsElsewhere(calls_address)  # noqa: SLF001 - the same module's class
    if tracker_id:
        _by_id[tracker_id] = copy
    return copy


def _finish_all(code: int | None = None) -> None:
    """Finish all trackers of this process; ``code`` is the process's exit code, as far as it is known."""
    for tracker in tuple(_trackers):
        # A lock that another thread held at the fork stays held in the child.
        if not tracker._inert:  # noqa: SLF001 - the same module's class
            tracker._finish_at_exit(uncaught_code() if code is None else code)  # noqa: SLF001 - the same module's class


def finish_first_at_exit() -> None:
    """Have the trackers finish, at the interpreter's exit, before what is registered for it so far."""
    atexit.register(_finish_all)  # of these functions the last registered one is the first to be called


def _make_all_inert() -> None:
    for tracker in tuple(_trackers):
        tracker._make_inert()  # noqa: SLF001 - the same module's class


atexit.register(_finish_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_make_all_inert)
