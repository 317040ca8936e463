"""``WandbBackend``: the script itself writes a W&B run, by the SDK in its own process."""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import time_ns
from typing import Any, cast

from tracker_client.backends.base import TrackerBackend
from tracker_client.backends.built_in import RunArguments
from tracker_client.media.artifacts import Directory, check_not_ours
from tracker_client.staging.attachment import Attachment
from tracker_client.staging.buffer import Entry
from tracker_client.staging.resolving import wait_resolved
from tracker_client.staging.rows import LoggedRow, RowAssembler
from tracker_client.staging.sources import SourceUnusable
from tracker_client.values.refusals import Refusals
from tracker_client.values.snapshot import Row
from tracker_client.values.steps import given_step
from tracker_client.watch.watching import Watches
from tracker_daemon.backends.item_names import plain_name
from tracker_daemon.backends.wandb.rows import (
    NO_STEP,
    STEP_COLUMN,
    TIME_COLUMN,
    names_of_run,
    wandb_histogram,
)
from tracker_daemon.backends.wandb.session import load_sdk
from tracker_daemon.inprocess.description import plain_configuration, rank_of
from tracker_daemon.inprocess.wandb_media import SdkMedia
from tracker_daemon.inprocess.wandb_run import begin_run
from tracker_daemon.settings.credentials import BACKENDS, with_files

_COMMON_ARGUMENTS = frozenset({"project", "config", "dir"})
"""Arguments of ``wandb.init`` that every backend gets from ``setup_tracker``'s own."""
_LAST_ROWS_S = 5.0
"""``finish`` waits so long, in seconds, for another thread that is logging the last rows."""
_POLL_S = 0.01


class WandbBackend(TrackerBackend):
    """Records to a W&B run anything that W&B accepts: its own objects and nested dicts are passed unchanged.

    Rows have the training step in the column ``step``, the axis of all charts, as the daemon's rows do. W&B's
    variables are read from this process's environment, from ``~/.amsc.env`` and from the project's ``.env``.
    Only rank 0 writes.

    Attributes:
        run: the SDK's own run; None on other ranks.
        run_url: the run's page at W&B; None offline, and on other ranks.
    """

    name = "wandb"

    def __init__(
        self,
        project_name: str | None = None,
        config: Any = None,
        outdir: str | os.PathLike[str] | None = None,
        rank: int | None = None,
        *,
        tracker_run_id: str | None = None,
        **wandb_init: Any,
    ) -> None:
        """Begin the run.

        Args:
            project_name: W&B's project; from the environment or the script's name if None.
            config: the run's configuration.
            outdir: the directory of W&B's files; the working directory if None.
            rank: this process's rank; found from the launcher if None.
            tracker_run_id: W&B's id of the run, unless ``id`` or WANDB_RUN_ID gives one.
            **wandb_init: any argument of ``wandb.init``.

        Without a key, or if the server does not accept the run, the run is recorded offline. A warning names
        the ``wandb sync`` command that uploads it.

        Raises:
            BackendError: the package ``wandb`` cannot be used, or W&B has no such mode.
            RankUnknown: several processes run, and the rank of this one cannot be found.
        """
        self.run: Any = None
        rank = rank_of(rank)
        if rank != 0:
            return
        self._pid = os.getpid()
        self._names = names_of_run()
        self._refusals = Refusals()
        self._work: deque[Callable[[], None]] = deque()
        self._working = threading.Lock()  # nobody waits for it
        self._attached: deque[Attachment] = deque()
        self._watches = Watches(self._attach, lambda: True, self._refusals)
        os.environ.update(with_files(BACKENDS["wandb"], os.environ))
        values = plain_configuration(config, self._refusals) if config is not None else {}
        self.run = begin_run(project_name, values, outdir, rank, tracker_run_id, wandb_init)
        self._wandb = load_sdk()
        self._rows = RowAssembler(max(0, self.run.starting_step), self._refusals)
        self._newest: LoggedRow | None = None  # not sent yet: further calls may join it
        self._last_step = max(NO_STEP, self.run.starting_step - 1)

    @classmethod
    def for_run(cls, run: RunArguments, options: Mapping[str, Any]) -> WandbBackend:
        """Begin ``run``, for ``setup_tracker``."""
        return cls(run.project_name, run.config, run.outdir, run.rank, tracker_run_id=run.run_id, **options)

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Return the names of ``wandb.init``'s arguments, without those that every backend gets."""
        return frozenset(inspect.signature(load_sdk().init).parameters) - _COMMON_ARGUMENTS

    @property
    def run_url(self) -> str | None:  # noqa: D102 - an attribute to its users, above
        url: str | None = self.run.url if self.run is not None else None
        return url

    def log(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool | None = True) -> None:  # noqa: FBT001, FBT002 - TrackerBackend's
        """Log ``metrics`` to W&B; raises what the SDK raises."""
        if not self._is_here():
            return
        at = given_step(step, self._refusals)
        # W&B's own objects pass the assembler as numbers do: it only merges rows.
        entry = (at, time_ns(), cast("Row", dict(metrics)), commit is None or bool(commit))
        self._in_turn(lambda: self._log_entry(entry))

    def _log_entry(self, entry: Entry) -> None:
        self._join_attached()
        for row in self._rows.add(entry):
            self._add_part(row)

    def _in_turn(self, work: Callable[[], None]) -> None:
        """Do ``work`` after earlier work. If a call that this one interrupts works, it does this too."""
        self._work.append(work)
        while self._work and self._working.acquire(blocking=False):
            try:
                while self._work:
                    self._work.popleft()()
            finally:
                self._working.release()

    def log_config(self, config: Any) -> None:
        """Merge ``config`` into the run's, at its top level."""
        if self._is_here():
            self.run.config.update(plain_configuration(config, self._refusals), allow_val_change=True)

    def define_metric(self, glob: str, step_metric: str | None = None, summary: str | None = None) -> None:
        """Define the axis and the summary of metrics; raises what the SDK raises."""
        if self._is_here():
            axis = STEP_COLUMN if step_metric is None else self._names.of(step_metric)
            self.run.define_metric(glob, step_metric=axis, summary=summary)

    def log_table(self, key: str, columns: Any = None, data: Any = None, step: int | None = None) -> None:
        """Log a table of rows, or a data frame, as a ``wandb.Table``."""
        if self._is_here():
            note, refuse = partial(self._refusals.warn_each_minute, key), partial(self._refusals.refuse, key)
            self._log_media(key, lambda media: media.table(columns, data, note, refuse), step)

    def log_image(
        self, key: str, image_path: Any, caption: str | None = None, step: int | None = None
    ) -> None:
        """Log an image, a list of images or a stack of them, as ``wandb.Image``."""
        if self._is_here():
            note = partial(self._refusals.warn_each_minute, key)
            self._log_media(key, lambda media: media.images(image_path, caption, note), step)

    def _log_media(self, key: str, make: Callable[[SdkMedia], Any], step: int | None) -> None:
        """Log the object that ``make`` returns, at ``step``; refuse ``key`` if it is unusable."""
        media = SdkMedia(self._wandb)
        try:
            value = make(media)
        except SourceUnusable as unusable:
            self._refusals.refuse(key, str(unusable))
            media.close()
        else:
            self._log_object(key, value, step, media.close)

    def log_artifacts(self, paths: Mapping[str, Any], step: int | None = None) -> None:  # noqa: ARG002 - W&B's artifacts have no step
        """Log each file or directory as an artifact with its label's name; leave out missing ones."""
        for label, path in dict(paths).items() if self._is_here() else ():
            location = Path(os.fsdecode(path)).expanduser()
            if not location.exists():
                self._refusals.refuse(label, f"{location} does not exist; it is not recorded")
                continue
            artifact = self._wandb.Artifact(plain_name(label), type="artifact", metadata={"label": label})
            try:
                for name, file in _files_of(location, label, self._refusals):
                    artifact.add_file(file, name=name)
            except SourceUnusable as unusable:
                self._refusals.refuse(label, str(unusable))
            else:
                self.run.log_artifact(artifact)

    def _log_object(self, key: str, value: Any, step: int | None, then: Callable[[], None]) -> None:
        """Log one of W&B's own objects at ``step``, and call ``then``.

        None means the step that the rows have reached.
        """
        given = given_step(step, self._refusals)

        def add() -> None:
            at = self._rows.reached if given is None else given
            self._add_object(LoggedRow(at, time_ns(), {key: value}, automatic=given is None))
            then()

        self._in_turn(add)

    def watch(self, model: Any, **kwargs: Any) -> None:
        """Record the distributions of a model's gradients and parameters; see :meth:`Tracker.watch`."""
        if self._is_here():
            self._watches.watch(model, **kwargs)

    def unwatch(self, model: Any = None) -> None:
        """Stop watching this model, or all models if None."""
        if self._is_here():
            self._watches.unwatch(model)

    def _attach(self, attachment: Attachment) -> None:
        self._attached.append(attachment)

    def _join_attached(self) -> None:
        """Add a model's statistics to the row of the next call; wait for them."""
        while self._attached:
            entry = (None, time_ns(), self._attached.popleft(), False)
            self._rows.add(wait_resolved(entry, self._refusals))

    def finish(self) -> None:
        """End the run as finished, once all of it is uploaded."""
        self.finish_with(0)

    def finish_with(self, exit_code: int) -> None:
        """End the run with that exit code, once all of it is uploaded."""
        if not self._is_here():
            return
        self._watches.unwatch()
        self._in_turn(self._send_last)
        deadline = time.monotonic() + _LAST_ROWS_S
        while self._working.locked() and time.monotonic() < deadline:  # another thread works
            time.sleep(_POLL_S)
        self.run.finish(exit_code=exit_code)
        self._refusals.report()

    def _send_last(self) -> None:
        self._join_attached()
        for row in self._rows.end():
            self._add_part(row)
        self._send_newest()

    def _add_part(self, part: LoggedRow) -> None:
        """Add a part of a row; the row is sent once another begins."""
        if self._newest is not None and self._newest.number == part.number:
            self._newest = self._newest.with_part(part)
            return
        self._send_newest()
        self._newest = part

    def _add_object(self, row: LoggedRow) -> None:
        """Send a table or an image, with the newest row if that has its step, and no such name.

        W&B copies an image's file at once, so that the file need not outlive the call.
        """
        newest = self._newest
        if newest is not None and newest.step == row.step and newest.values.keys().isdisjoint(row.values):
            self._newest = newest.with_part(row)
            self._send_newest()
            return
        self._send_newest()
        self._send(row)

    def _send_newest(self) -> None:
        newest, self._newest = self._newest, None
        if newest is not None:
            self._send(newest)

    def _send(self, row: LoggedRow) -> None:
        """Log a row.

        W&B drops a row whose step is not above that of the row before.
        """
        # The script may also log to the run itself, without this tracker.
        self._last_step = max(row.step, self._last_step + 1, self.run.step)
        values: dict[str, Any] = {self._names.of(name): value for name, value in row.values.items()}
        values |= {self._names.of(name): wandb_histogram(one.document()) for name, one in row.items.items()}
        values |= {STEP_COLUMN: row.step, TIME_COLUMN: row.time_ns / 1e9}
        self.run.log(values, step=self._last_step, commit=True)

    def _is_here(self) -> bool:
        """Return True if there is a run and this process began it, not a parent that has forked it."""
        return self.run is not None and os.getpid() == self._pid


def _files_of(location: Path, label: str, refusals: Refusals) -> list[tuple[str, str]]:
    """Return the files of an artifact: their names in it, and their paths.

    Raises:
        SourceUnusable: they are a daemon's own.
    """
    if location.is_dir():
        return Directory(str(location), label, refusals).files()
    check_not_ours(str(location))
    return [(location.name, str(location))]
