"""What a tracker knows of its run at the daemon: its id, its directory, its backends, its own status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tracker_client.backends.script_backends import ScriptBackends
from tracker_client.errors import DaemonRefused, EndpointError
from tracker_client.media.drafts import Media
from tracker_client.sending.published import Published
from tracker_client.sending.sender import Sender
from tracker_client.settings.reading import ClientSettings
from tracker_client.staging.buffer import StagingBuffer
from tracker_client.trackers.remote_backends import RemoteBackends
from tracker_client.trackers.status import TrackerStatus
from tracker_client.trackers.tracker import Tracker
from tracker_client.transport.messages import Welcome
from tracker_client.transport.uploads import UploadProgress


class RemoteRun(Tracker):
    """A tracker's run at the daemon; ``RemoteTracker`` sets the parts, and records."""

    _settings: ClientSettings
    _sender: Sender
    _published: Published
    _staging: StagingBuffer
    _media: Media
    _scripts: ScriptBackends
    _remote: RemoteBackends
    _given_run_id: str | None

    @property
    def run_id(self) -> str | None:
        """The run's id. If the script gives none, waits up to ``handle_timeout`` for it; then None."""
        if self._given_run_id:
            return self._given_run_id
        run = self._await_run()
        return None if run is None else run.run_id

    @property
    def attempt(self) -> int | None:
        """The number of this attempt at the run, from 1. Waits up to ``handle_timeout`` for it; then None."""
        run = self._await_run()
        return None if run is None else run.attempt

    @property
    def directory(self) -> Path | None:
        """The directory of the run's files, on the daemon's host.

        Waits up to ``handle_timeout`` for the daemon to send it; then None.
        """
        seconds = self._settings.handle_timeout_s
        if not self._inert and not self._published.located.wait(seconds):
            reason = self._published.problem or "the daemon could not make it"
            self._refusals.warn_once("directory", f"not known after {seconds:.0f} s ({reason}); it is None")
        path = self._published.directory
        return None if path is None else Path(path)

    def _await_run(self) -> Welcome | None:
        """Return the daemon's Welcome; None, with a warning, if there is none within ``handle_timeout``."""
        seconds = self._settings.handle_timeout_s
        if self._inert or self._published.welcomed.wait(seconds):
            return self._published.run
        self._refusals.warn_once("run_id", f"the daemon did not answer within {seconds:.0f} s; it is None")
        return None

    def get_backend(self, name: str) -> Any:
        """Return the backend ``name``; None if the run has no such backend.

        In the primary rank's process, a class of the script is returned as the object itself. A backend at
        the daemon is returned as a :class:`~tracker_client.trackers.remote_backends.RemoteBackend`; for this
        the call waits up to ``handle_timeout`` for the daemon's list of the run's backends.
        """
        name = name.strip().lower()
        own = self._scripts.get(name, self._settings.handle_timeout_s)
        if own is not None:
            return own
        run = self._published.run if self._sender.handles.is_given(name) else self._await_run()
        if name in self._settings.script_classes.by_name:
            return None
        known = (self._settings.backends or "").split(",") if run is None else run.backends
        return self._remote.get(name) if name in known else None

    def status(self) -> TrackerStatus:
        """Return this process's own state: counts of buffered, acknowledged and dropped values."""
        if self._inert:
            return TrackerStatus(calls_elsewhere=self._calls_elsewhere.count)
        return _status(
            self._sender,
            self._staging,
            self._media.uploads.progress(),
            refused_values=self._refusals.count,
            calls_after_finish=self._count_late_rows(),
            calls_elsewhere=self._calls_elsewhere.count,
            backend_failures=self._scripts.failures,
        )

    def wait_until_admitted(self) -> None:
        """Wait for the daemon's first answer.

        Raises:
            DaemonRefused: the daemon refused this rank.
            EndpointError: the daemon did not answer within ``handle_timeout``.
        """
        self._published.answered.wait(self._settings.handle_timeout_s)
        if self._published.welcomed.is_set():
            return
        kind = DaemonRefused if self._published.answered.is_set() else EndpointError
        problem = self._published.problem or f"{self._settings.source}: no answer"
        self.finish(1, timeout=0)
        raise kind(problem)

    def _count_late_rows(self) -> int:
        # A call of log() that had begun before finish() may have added its row after the last drain.
        if self._published.ended.is_set() and self._published.finished:
            self._calls_after_finish.add(self._staging.drop_rows())
        return self._calls_after_finish.value


def _status(
    sender: Sender,
    staging: StagingBuffer,
    uploads: UploadProgress,
    *,
    refused_values: int,
    calls_after_finish: int,
    calls_elsewhere: int,
    backend_failures: int,
) -> TrackerStatus:
    """Return the status, from the counts of the tracker's parts."""
    published, unacknowledged = sender.published, sender.batches.unacknowledged
    run = published.run
    return TrackerStatus(
        state=_state(published),
        run_id=run.run_id if run else None,
        attempt=run.attempt if run else None,
        buffered_points=staging.count_points() + sender.batches.blocked_points,
        unacknowledged_points=unacknowledged.held_points,
        unacknowledged_batches=unacknowledged.held_batches,
        unacknowledged_bytes=unacknowledged.held_bytes,
        acknowledged_sequence=unacknowledged.acknowledged,
        dropped_points=staging.dropped_points + unacknowledged.lost_points,
        refused_values=refused_values,
        calls_after_finish=calls_after_finish,
        calls_elsewhere=calls_elsewhere,
        connections=published.connections,
        backend_failures=backend_failures,
        problem=published.problem,
        waiting_uploads=uploads.waiting,
        upload_percent=uploads.percent,
    )


def _state(published: Published) -> str:
    if published.ended.is_set():
        return "finished" if published.finished else "unfinished"
    if published.connected:
        return "connected"
    return "disconnected" if published.connections else "connecting"
