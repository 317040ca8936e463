"""The tracker that streams to a daemon: :class:`RemoteTracker`.

``RemoteTracker.log`` is the hot path. It copies the dict, reads the time and appends to the staging buffer.
The sender decides later which step a call means, which calls make a row, and which names are valid.

After a fork the tracker is inert in the child: the sender's thread does not exist there. So ``log`` only
counts in the child, and the exit of the child does nothing.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from time import time_ns
from typing import TYPE_CHECKING, Any, cast

from tracker_client.backends.adopted_wandb import WANDB
from tracker_client.backends.script_backends import Construct, ScriptBackends
from tracker_client.backends.script_entries import DirectCall
from tracker_client.backends.wandb_module import ModuleNames, names_of_handle
from tracker_client.endpoints.embedded import EmbeddedEndpoint
from tracker_client.media.drafts import Media
from tracker_client.sending.events import WAITS, Finish, LogConfig
from tracker_client.sending.sender import Sender
from tracker_client.settings.metric_options import MetricDefinition
from tracker_client.settings.reading import ClientSettings
from tracker_client.staging.attachment import Attachment
from tracker_client.staging.buffer import FAST_ROW_VALUES_MAX, StagingBuffer, weighed
from tracker_client.trackers.exit_code import exit_status_file
from tracker_client.trackers.introduction import introduce
from tracker_client.trackers.remote_backends import RemoteBackends
from tracker_client.trackers.remote_run import RemoteRun
from tracker_client.trackers.tracker import FINISH_TIMEOUT_S, finish_first_at_exit
from tracker_client.values.arguments import bounded_seconds, exit_code_for
from tracker_client.values.configuration import EMPTY_CONFIGURATION, read_configuration
from tracker_client.values.exit_status import ExitStatusFile
from tracker_client.values.refusals import Refusals
from tracker_client.values.snapshot import PLAIN, snapshot
from tracker_client.values.steps import given_step
from tracker_client.values.untraced import leave_out_of_graphs, untraced
from tracker_client.values.wandb_objects import MediaValue, from_wandb, is_media_of_wandb, is_of_wandb
from tracker_client.watch.watching import Watches
from tracker_protocol import limits

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tracker_client.watch.options import WatchOptions

JOIN_GRACE_S = 2.0
"""``finish`` waits for the sender's thread until its own deadline, and this much longer."""
FIRST_TRY_S = 0.5
"""The time that setting up waits, on CPython 3.12, for the threads of the first connection. That version
starts no thread once a script has ended, and so the connection of a very short script needs them before."""

_all_plain = PLAIN.issuperset  # looked up once: log() is measured in nanoseconds
logger = logging.getLogger("tracker_client")


class RemoteTracker(RemoteRun):
    """A rank's connection to its run on a daemon; :func:`setup_tracker` makes it.

    Any thread may call all methods. No method raises for bad input.
    """

    def __init__(self, settings: ClientSettings, config: Any = None) -> None:
        super().__init__()
        leave_out_of_graphs()
        self._refusals = Refusals(warn=self._warn)
        self._settings = settings
        self._staging = StagingBuffer(settings.buffer_bytes, self._wake_sender)
        self._rows = self._staging.rows
        self._scripts = ScriptBackends(_constructors(settings, config), self._refusals)
        introduction = introduce(settings)
        self._given_run_id = introduction.run_id
        self._sender = Sender(settings, introduction, self._staging, self._refusals, self._scripts)
        self._published = self._sender.published
        is_primary = settings.rank.rank == (settings.primary_rank or 0)
        self._scripts.start(self._sender.inbox.put, at_once=settings.script_classes.sure and is_primary)
        self._configuration: dict[str, Any] = {}
        self._defined: dict[str, MetricDefinition] = {}
        self._remote = RemoteBackends(self, self._sender.handles.read, self._configuration, self._refusals)
        self._media = Media(self._sender.batches.items, self._sender.uploads(), self._refusals)
        self._watches = Watches(self._attach, self._wants_items, self._refusals)
        if isinstance(settings.source, EmbeddedEndpoint):
            settings.source.prepare()
        self._wandb_names = self._begin_wandb_names() if is_primary else None
        self._sender.start()
        if sys.version_info[:2] == (3, 12):
            self._published.tried.wait(FIRST_TRY_S)
        for warning in settings.warnings:
            self._warn(warning)
        self._is_set_up = True  # until the next line is done: it logs the configuration of the set-up
        if config is not None:
            self.log_config(config)
        self._is_set_up = bool(self._configuration)

    def _begin_wandb_names(self) -> ModuleNames | None:
        """Have ``wandb.log()`` and the like record through this tracker, if the run may have W&B."""
        classes, backends = self._settings.script_classes, self._settings.backends
        if classes.adopted is None and (
            WANDB in classes.by_name or (backends is not None and WANDB not in backends.split(","))
        ):
            return None
        run = self._remote.wandb_run
        if classes.adopted is not None:
            finish_first_at_exit()  # the SDK ends its runs at exit too
            names = ModuleNames({"log": run.log}, self._refusals)
        else:
            names = ModuleNames(names_of_handle(run, self._refusals), self._refusals)
        names.begin()
        self._sender.on_welcome = lambda run: None if WANDB in run.backends else names.end()
        return names

    # ---- logging ---------------------------------------------------------------------------------

    @untraced
    def log(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool | None = True) -> None:  # noqa: FBT001, FBT002 - the signature of W&B's ``log``
        """Record ``metrics`` as they are now.

        Args:
            metrics: names and values. A value is a number, a text, an array or tensor of one element, or a
                ``wandb.Histogram``, ``Image`` or ``Table``. It may be a dict of these: ``{"a": {"b": 1}}``
                logs ``a.b``.
            step: the training step, an integer; None (the default) continues from the last step.
            commit: False keeps the row open for further calls with the same step; the default is True.
        """
        if self._closed:
            self._count_late_call()
            return
        try:
            if (
                _all_plain(map(type, metrics.values()))
                and (step is None or type(step) is int)
                and commit is True
            ):
                rows = self._rows
                rows.append((step, time_ns(), dict(metrics), True))
                if len(rows) > self._staging.limit or len(metrics) > FAST_ROW_VALUES_MAX:
                    self._staging.make_room()
            else:
                self._log_checked(metrics, step, commit)
        except Exception as error:  # noqa: BLE001 - bad input is the user's code, and training must continue
            what, given = f"a call raised {error!r}", cast("object", metrics)
            if not isinstance(given, Mapping):
                what = f"it takes a dict of names and values, not a {type(given).__name__}"
            self._refusals.refuse("log()", f"{what}; it recorded nothing")

    def _log_checked(self, metrics: Mapping[Any, Any], step: Any, commit: Any) -> None:
        """Log any row: copy each value, and weigh the row exactly."""
        leave_out_of_graphs()
        at = given_step(step, self._refusals)
        if self._settings.script_classes.adopted is not None:
            metrics = self._pass_objects_on(metrics, at)
        found = snapshot(metrics, self._refusals)
        media = {key: value for key, value in found.items() if isinstance(value, MediaValue)}
        self._rows.append((at, time_ns(), weighed(found), commit is None or bool(commit)))
        self._staging.make_room()
        for key, value in media.items():
            self._media.value(key, value, at)

    def _pass_objects_on(self, metrics: Mapping[Any, Any], step: int | None) -> Mapping[Any, Any]:
        """Give W&B's objects to the script's own run; return the values for the other backends."""
        objects = {key: value for key, value in metrics.items() if is_media_of_wandb(value)}
        if not objects:
            return metrics
        self._scripts.pass_on(DirectCall("log_objects", (objects,), {"step": step}))
        return {
            key: value
            for key, value in metrics.items()
            if key not in objects or not is_of_wandb(value) or from_wandb(value)
        }

    @untraced
    def log_config(self, config: Any) -> None:
        """Merge ``config`` into the run's configuration; see :mod:`tracker_client.values.configuration`."""
        if self._closed:
            self._count_late_call()
            return
        read = read_configuration(config)
        if read is None:
            reason = f"a {type(config).__name__} has no names and values; it is not recorded"
            self._refusals.refuse("config", reason)
            return
        if read.warning:
            self._refusals.refuse("config", read.warning)
        if read.values:
            if not self._is_set_up:  # the daemon takes a stream's first configuration for that of the set-up
                self._is_set_up = True
                self._sender.inbox.put(LogConfig(EMPTY_CONFIGURATION))
            self._configuration.update(read.values)
            self._sender.inbox.put(LogConfig(read.document))

    def define_metric(self, glob: str, step_metric: Any = None, summary: str | None = None) -> Any:
        """Define how backends show metrics; see :meth:`Tracker.define_metric`."""
        definition = self._definition(glob, step_metric, summary)
        if (
            definition is None
            or self._defined.get(definition.name, MetricDefinition(definition.name)) == definition
        ):
            return definition  # it says nothing new
        if self._closed:
            self._count_late_call()
            return definition
        if definition.name not in self._defined and len(self._defined) >= limits.METRIC_DEFINITIONS_MAX:
            self._refusals.warn_once(
                "define_metric()",
                f"it was called for {limits.METRIC_DEFINITIONS_MAX} names and globs; further ones have no "
                "effect. Define several metrics by one glob",
            )
            return definition
        self._defined[definition.name] = definition
        given = {"step_metric": definition.step_metric, "summary": definition.summary}
        self._scripts.pass_on(DirectCall("define_metric", (definition.name,), given))
        self._sender.batches.define(definition)
        return definition

    @untraced
    def watch(self, model: Any, **options: Unpack[WatchOptions]) -> None:
        """Record statistics of a model's gradients and parameters; see :meth:`Tracker.watch`."""
        if self._closed:
            self._count_late_call()
            return
        self._scripts.pass_on(DirectCall("watch", (model,), options))
        try:
            self._watches.watch(model, **options)
        except Exception as error:  # noqa: BLE001 - a model is the user's code, and training must continue
            self._refusals.refuse("watch()", f"it raised {error!r}; this model may be watched in part only")

    def unwatch(self, model: Any = None) -> None:
        """Stop watching this model, these models, or (by default) all models; ``finish`` does so too."""
        self._watches.unwatch(model)

    def _attach(self, attachment: Attachment) -> None:
        self._rows.append((None, time_ns(), attachment, False))
        self._staging.make_room()

    def _wants_items(self) -> bool:
        run = self._published.run
        return not self._closed and (run is None or run.records_items)

    @untraced
    def log_table(self, key: str, columns: Any = None, data: Any = None, step: int | None = None) -> None:
        """Record a table as it is now. A later table with the same ``key`` replaces it.

        Args:
            key: the table's name.
            columns: the columns' names; None if ``data`` has names.
            data: rows, each a list of cells or a dict, a dict of columns, a ``wandb.Table``, or a pandas,
                polars or pyarrow frame. A cell may be an image: a ``wandb.Image``, a PIL image or a figure.
            step: as in :meth:`log`, but None means the step of the last row.
        """
        direct = DirectCall("log_table", (key, columns, data))
        self._record_media(key, lambda: self._media.table(key, columns, data, step), direct)

    @untraced
    def log_image(
        self, key: str, image_path: Any, caption: str | None = None, step: int | None = None
    ) -> None:
        """Record an image as it is now.

        Args:
            key: the image's name.
            image_path: a path, the bytes of an image file, a PIL image, a figure, or an array or tensor. An
                array has the shape height × width, or 1, 3 or 4 channels before or after these. Its
                values are uint8, or floats in [0, 1]. A list of images, or an array with one more axis, is
                several images.
            caption: a text about the image, or a list of texts.
            step: as in :meth:`log`, but None means the step of the last row.
        """
        direct = DirectCall("log_image", (key, image_path), {"caption": caption})
        self._record_media(key, lambda: self._media.image(key, image_path, caption, step), direct)

    @untraced
    def log_artifacts(self, paths: Mapping[str, Any], step: int | None = None) -> None:
        """Record files and directories, in the background.

        A file that is replaced or deleted afterwards is recorded as it was at the call. A file that is
        written into before its upload is not recorded, with a warning. A directory is read when its upload
        starts. Paths that do not exist are left out, with a warning.

        Args:
            paths: a path for each label.
            step: as in :meth:`log`, but None means the step of the last row.
        """
        direct = DirectCall("log_artifacts", (paths,))
        self._record_media("log_artifacts()", lambda: self._media.artifacts(paths, step), direct)

    def _record_media(self, key: object, record: Callable[[], None], direct: DirectCall) -> None:
        if self._closed:
            self._count_late_call()
            return
        self._scripts.pass_on(direct)
        try:
            record()
        except Exception as error:  # noqa: BLE001 - tables, images and arrays are the user's own code
            self._refusals.refuse(key, f"reading it raised {error!r}; it is not recorded")

    # ---- the end ---------------------------------------------------------------------------------

    def finish(self, exit_code: int = 0, wait: str = "files", timeout: float = FINISH_TIMEOUT_S) -> None:
        """Send the remaining values and end this rank's part of the run; a second call does nothing.

        Args:
            exit_code: 0, or the code that the run failed with.
            wait: "recorded" waits until the daemon has everything durably; behind a node's daemon: until the
                root has. "files" also waits until the rows, configurations, tables and images of the primary
                rank are in the files of the ``csv`` backend, for 10 s at most; then a warning names the rows
                and the ranks for which they wait. "delivered" waits until all backends have everything.
            timeout: the longest wait, in seconds; the default is 60. A warning names what is missing then:
                the number of values that are not acknowledged, or the root, and where the values lie.

        On the primary rank, ``finish`` also waits for the classes that ``register_backend`` named: until they
        have received their records and have finished.

        * If the other ranks end within a few seconds, the classes receive the whole run.
        * Otherwise they receive all that is recorded until no value of the primary rank waits for other
          ranks any more. This takes the daemon's ``partial_after_s`` at most. They do not receive values that
          other ranks log later.
        * When the timeout is over, they finish with the records that they have.
        """
        self._finish(Finish(exit_code_for(exit_code)), wait, timeout)

    def _finish(self, finish: Finish, wait: str, timeout: float) -> None:
        if not self._close_once():
            return
        self._watches.unwatch()
        if wait not in WAITS:
            self._warn(f"finish(wait={wait!r}): wait is one of {WAITS}; waiting for files")
            wait = "files"
        timeout = bounded_seconds(timeout, FINISH_TIMEOUT_S)
        deadline = time.monotonic() + timeout
        self._refusals.report()
        self._sender.inbox.put(replace(finish, wait=wait, deadline=deadline))
        self._published.ended.wait(timeout + JOIN_GRACE_S)
        if self._wandb_names is not None:
            self._wandb_names.end()
        self._media.end(self._published.unrecorded)
        self._refusals.report()
        self._sender.warnings.flush()
        if not self._published.finished:
            self._warn_unfinished(wait, timeout)
        elif self._published.missing:
            logger.warning("finish(): %s", self._published.missing)

    def _warn_unfinished(self, wait: str, timeout: float) -> None:
        status = self.status()
        missing = status.buffered_points + status.unacknowledged_points
        problem = f" ({status.problem})" if status.problem else ""
        unacknowledged = f"{missing} values are not acknowledged by the daemon{problem}"
        rest = self._published.unfinished or unacknowledged
        logger.warning("finish(wait=%r) ended after %.0f s; %s", wait, timeout, rest)

    def _finish_at_exit(self, code: int | None) -> None:
        exit_status = exit_status_file() if code is None else ExitStatusFile()
        self._finish(Finish(code, exit_status=exit_status), "files", self._settings.exit_timeout_s)

    def _warn(self, text: str) -> None:
        self._sender.warnings.warn(text)

    def _wake_sender(self) -> None:
        self._sender.wake()


def _constructors(settings: ClientSettings, config: Any) -> dict[str, Construct]:
    """Return a constructor for each class of the script, with this run's arguments."""
    read = read_configuration(config) if config is not None else None
    described = {
        "project_name": settings.project,
        "config": read.values if read is not None else {},
        "outdir": settings.outdir or settings.working_directory,
        "rank": settings.rank.rank,
    }
    classes = settings.script_classes.by_name
    return {name: partial(found.construct, **described) for name, found in classes.items()}
