"""Delivers a script's calls to one of the daemon's backends, in the script's process."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from time import time_ns
from typing import Any, ClassVar

from tracker_client.backends.base import TrackerBackend
from tracker_client.media.drafts import Media
from tracker_client.staging.attachment import Attachment
from tracker_client.staging.buffer import weighed
from tracker_client.staging.items import ItemDraft
from tracker_client.trackers.exit_code import uncaught_code
from tracker_client.transport.uploads import Upload, UploadProgress
from tracker_client.values.arguments import INTERRUPTED
from tracker_client.values.refusals import Refusals
from tracker_client.values.snapshot import snapshot
from tracker_client.values.steps import given_step
from tracker_client.values.wandb_objects import MediaValue
from tracker_client.watch.watching import Watches
from tracker_daemon.backends.base import Backend, Commit, RunDescription, RunStatus, SetAside
from tracker_daemon.delivery.health import BackendHealth
from tracker_daemon.delivery.pump import Pump
from tracker_daemon.inprocess.description import plain_configuration
from tracker_daemon.inprocess.events import send_events_to_logging
from tracker_daemon.inprocess.files_lane import FilesOutbox
from tracker_daemon.inprocess.outbox import MemoryOutbox
from tracker_daemon.outbox.entries import OutboxEntry
from tracker_protocol import limits

logger = logging.getLogger("tracker_daemon")


class Delivery:
    """Delivers logged data to ``backend`` on its own thread, until :meth:`finish`.

    ``files`` is the backend for tables, images and artifacts, which have another thread. In a forked child a
    delivery does nothing: the child does not have the threads, and the files are the parent's.
    """

    def __init__(
        self,
        backend: Backend,
        run: RunDescription,
        files: Backend,
        *,
        release: Callable[[RunStatus, str], None] = lambda *_: None,
    ) -> None:
        """Open the backend on this thread; call ``release`` once both backends have ended in time.

        ``release`` is given the run's status and the reason for it.

        Raises as :meth:`Backend.open` does.
        """
        send_events_to_logging()
        self.refusals = Refusals()
        self._pid = os.getpid()
        self._name = backend.name
        self._release = release
        self._not_closed = [True]  # whoever takes the element ends the delivery
        self._closed = False
        self._outbox = MemoryOutbox(self.refusals, self._pass_on)
        opened = _Opened(backend, run)
        self._location = opened.location()
        self._pump = Pump(opened, run, read=self._outbox.read, commit=_keep_nothing)
        contents = run.outdir / f".tracker-contents-{backend.name}-{secrets.token_hex(4)}"
        self._lane = FilesOutbox(contents, self.refusals)
        lane_run = replace(run, contents=contents, files_lane=True)
        self._files_pump = Pump(files, lane_run, read=self._lane.read, commit=_keep_nothing)
        self._has_files = False
        self._files_not_started = [True]  # whoever takes the element starts the lane
        self.media = Media(self, self, self.refusals)
        self.watches = Watches(self._attach, lambda: not self._closed, self.refusals)
        self._pump.start()
        atexit.register(self._finish_at_exit)

    def log(self, metrics: Mapping[str, Any], step: int | None, commit: bool | None) -> None:  # noqa: FBT001 - TrackerBackend's
        """Take the values as they are now; see :meth:`TrackerBackend.log`."""
        at = given_step(step, self.refusals)
        found = snapshot(metrics, self.refusals)
        row = weighed(found)
        for key in row.items:
            self.refusals.refuse(key, f"the {self._name} backend cannot record a histogram")
        if not self.accepts("log()"):
            return
        self._outbox.add_call((at, time_ns(), row, commit is None or bool(commit)))
        self._pump.notify()
        for key, value in found.items():
            if isinstance(value, MediaValue):
                self.media.value(key, value, at)

    def configure(self, config: Any, *, later: bool = True) -> None:
        """Merge ``config`` into the run's configuration; see :mod:`tracker_client.values.configuration`.

        It is ``later`` if the run was not set up with it.
        """
        values = plain_configuration(config, self.refusals)
        if values and self.accepts("log_config()"):
            self._outbox.add_config(values, later=later)
            self._pump.notify()

    # ---- calls of Media and Watches --------------------------------------------------------------

    def announce(self, draft: ItemDraft) -> bool:
        """Return True if the draft has contents: it is then queued with them by :meth:`submit`."""
        return draft.contents is None

    def submit(self, upload: Upload) -> bool:
        """Queue an item with files; return False if too many or too large items wait already."""
        if not self._lane.reserve(upload):
            return False
        with suppress(IndexError):  # the lane is started
            self._files_not_started.pop()
            self._has_files = True
            self._files_pump.start()
        self._outbox.add_files(upload)
        self._pump.notify()
        return True

    def progress(self) -> UploadProgress:
        """Return the number of items that wait."""
        return self._lane.progress()

    def stop(self) -> None:
        """Do nothing: :meth:`finish` ends the lane too."""

    def _attach(self, attachment: Attachment) -> None:
        self._outbox.add_call((None, time_ns(), attachment, False))

    def _pass_on(self, logged: Upload | bytes) -> None:
        self._lane.add(logged)
        self._files_pump.notify()

    # ---- the end ---------------------------------------------------------------------------------

    def location(self) -> str | None:
        """Return the path or URL at which a person finds the run."""
        return self._location

    def health(self) -> BackendHealth:
        """Return the backend's health."""
        return self._pump.health()

    def finish(self, exit_code: int) -> None:
        """End the run, once; wait for a bounded time until the backend has all of it."""
        if os.getpid() != self._pid:
            return
        self.watches.unwatch()
        self._closed = True
        try:
            self._not_closed.pop()
        except IndexError:
            return
        status = RunStatus.FAILED if exit_code else RunStatus.FINISHED
        reason = f"the script ended with exit code {exit_code}" if exit_code else ""
        self._outbox.end({"status": status.value, "reason": reason, "interrupted": exit_code == INTERRUPTED})
        self._pump.notify()
        ended = self._end_of(self._pump, limits.DRAIN_TIMEOUT_S, "not all of the run is recorded")
        if self._has_files:
            what = "not all tables, images and artifacts are recorded"
            ended = self._end_of(self._files_pump, limits.INPROCESS_FILES_FINISH_S, what) and ended
        if ended:
            self._lane.clear()
            self._release(status, reason)
        atexit.unregister(self._finish_at_exit)
        self.refusals.report()
        if self._outbox.dropped_points:
            logger.warning("%s: %d values were dropped", self._name, self._outbox.dropped_points)

    def _end_of(self, pump: Pump, timeout_s: float, what: str) -> bool:
        """Wait until all is delivered, and end the pump; return True if the pump has closed its backend."""
        if not (pump.finished or pump.drain(time.monotonic() + timeout_s)):
            logger.warning("%s: %s: %s", self._name, what, pump.health().reason or "its store is too slow")
        return pump.stop(limits.INPROCESS_STOP_S)

    def _finish_at_exit(self) -> None:
        self.finish(uncaught_code() or 0)

    def accepts(self, call: str) -> bool:
        """Return True if ``call`` is made before the end, and not in a forked child."""
        if os.getpid() != self._pid:
            return False
        if self._closed:
            reason = "called after finish(); nothing is recorded"
            self.refusals.warn_once(f"{self._name}.{call}", reason)
        return not self._closed


class DeliveredBackend(TrackerBackend):
    """A :class:`TrackerBackend` over a :class:`Delivery`; without one (ranks above 0) it does nothing."""

    name: ClassVar[str]

    def __init__(self, delivery: Delivery | None) -> None:
        self._delivery = delivery

    def log(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool | None = True) -> None:  # noqa: FBT001, FBT002 - TrackerBackend's
        """Record numbers and texts; count any other value, and warn about each key once."""
        if self._delivery is not None:
            self._delivery.log(metrics, step, commit)

    def log_config(self, config: Any) -> None:
        """Merge ``config`` into the run's configuration."""
        if self._delivery is not None:
            self._delivery.configure(config)

    def log_table(self, key: str, columns: Any = None, data: Any = None, step: int | None = None) -> None:
        """Record a table of rows, or a data frame; see :meth:`Tracker.log_table`."""
        if self._delivery is not None and self._delivery.accepts("log_table()"):
            self._delivery.media.table(key, columns, data, step)

    def log_image(
        self, key: str, image_path: Any, caption: str | None = None, step: int | None = None
    ) -> None:
        """Record an image: a path, bytes, an array, a PIL image or a figure."""
        if self._delivery is not None and self._delivery.accepts("log_image()"):
            self._delivery.media.image(key, image_path, caption, step)

    def log_artifacts(self, paths: Mapping[str, Any], step: int | None = None) -> None:
        """Record files and directories by label, in the background."""
        if self._delivery is not None and self._delivery.accepts("log_artifacts()"):
            self._delivery.media.artifacts(paths, step)

    def watch(self, model: Any, **kwargs: Any) -> None:
        """Record the distributions of a model's gradients and parameters; see :meth:`Tracker.watch`."""
        if self._delivery is not None and self._delivery.accepts("watch()"):
            self._delivery.watches.watch(model, **kwargs)

    def unwatch(self, model: Any = None) -> None:
        """Stop watching this model, or all models if None."""
        if self._delivery is not None:
            self._delivery.watches.unwatch(model)

    def finish(self) -> None:
        """End the run as finished, once all of it is recorded."""
        self.finish_with(0)

    def finish_with(self, exit_code: int) -> None:
        """End the run once all of it is recorded; the run has failed if the exit code is not 0."""
        if self._delivery is not None:
            self._delivery.finish(exit_code)


class _Opened(Backend):
    """A backend that its constructor opens, so that the caller gets the errors of the opening."""

    def __init__(self, backend: Backend, run: RunDescription) -> None:
        self._backend = backend
        self._fresh = True
        backend.open(run, None)

    @property
    def name(self) -> str:  # type: ignore[override]  # the wrapped class's
        return self._backend.name

    @property
    def separate_files(self) -> bool:  # type: ignore[override]  # the wrapped class's
        return self._backend.separate_files

    def open(self, run: RunDescription, state: bytes | None) -> None:
        fresh, self._fresh = self._fresh, False
        if not fresh:
            self._backend.open(run, state)

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:
        return self._backend.deliver(entries, commit)

    def set_aside(self) -> Sequence[SetAside]:
        return self._backend.set_aside()

    def close(self) -> None:
        self._backend.close()

    def location(self) -> str | None:
        return self._backend.location()


def _keep_nothing(position: int, state: bytes, delivered: int, set_aside: int) -> None:
    """Drop the cursor: it is needed only as long as this process lives."""
