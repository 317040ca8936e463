"""``sync``: delivers the data that an ended daemon could not deliver.

A daemon is started on the state directory and stopped when nothing is left to do. Runs may still be
RUNNING because their daemon was killed. They end by the usual rules: their ranks may reconnect, and are
lost if they do not.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass

import msgspec

from tracker_daemon.endpoints.control import DaemonClient
from tracker_daemon.endpoints.endpoint_file import EndpointInfo
from tracker_daemon.errors import DaemonStartError, EndpointError
from tracker_daemon.launch.attended_daemon import (
    LEAVE_GRACE_S,
    TELL_AGAIN_S,
    AttendedDaemon,
    DaemonPlace,
    Interrupted,
    say,
)
from tracker_daemon.launch.daemon_process import describe_exit
from tracker_daemon.launch.signals import ENDING, SignalInbox
from tracker_daemon.status import document as status_document
from tracker_daemon.status import view as status_view
from tracker_daemon.status.document import BackendStatus, RunStatusEntry, StatusDocument
from tracker_protocol import limits

POLL_S = 0.5
CLOSE_S = limits.DRAIN_TIMEOUT_S + 10.0
"""Time for the daemon to record the runs' ends in the backends, and to close its files."""


@dataclass(frozen=True, slots=True)
class Syncing:
    """One ``sync``: ``daemon_argv`` is the daemon's command line, ``timeout_s`` the longest delivery."""

    daemon_argv: tuple[str, ...]
    place: DaemonPlace
    timeout_s: float | None = None

    def run(self) -> int:
        """Return 0 if everything is delivered, 1 if something is left, 128 + N if signal N ended it.

        Raises:
            DaemonStartError: the daemon could not be started, or ended by itself.
        """
        with closing(SignalInbox([*ENDING, signal.SIGCHLD])) as inbox:
            daemon = AttendedDaemon(self.daemon_argv, self.place, inbox)
            try:
                return self._sync(daemon, inbox)
            except Interrupted as interrupted:
                daemon.end(LEAVE_GRACE_S)
                say(self.place.kept())
                return 128 + interrupted.number
            finally:
                daemon.close()
                if daemon.poll() is None:
                    daemon.kill()

    def _sync(self, daemon: AttendedDaemon, inbox: SignalInbox) -> int:
        info = daemon.await_ready()
        first = self._look(daemon, info)
        unfinished = {run.run_id for run in first.runs if is_unfinished(run)}
        if not unfinished:
            daemon.end(CLOSE_S)
            say(f"everything in {self.place.state_dir} is delivered")
            return 0
        last = self._await_delivery(inbox, first, lambda: self._look(daemon, info))
        if any(is_unfinished(run) for run in last.runs):
            with suppress(EndpointError):  # the daemon has ended meanwhile
                DaemonClient(info).stop(0.0)
        daemon.end(CLOSE_S)
        return self._sum_up(unfinished)

    def _await_delivery(
        self, inbox: SignalInbox, document: StatusDocument, look: Callable[[], StatusDocument]
    ) -> StatusDocument:
        """Wait until all is delivered, waiting is useless, or the time is over; return the last status."""
        deadline = math.inf if self.timeout_s is None else time.monotonic() + self.timeout_s
        tell_at = 0.0
        while can_go_on(document) and (now := time.monotonic()) < deadline:
            if now >= tell_at:
                tell_at = now + TELL_AGAIN_S
                say(outlook(document))
            for number in inbox.wait(POLL_S):
                if number in ENDING:
                    raise Interrupted(number)
            document = look()
        return document

    def _look(self, daemon: AttendedDaemon, info: EndpointInfo) -> StatusDocument:
        try:
            return status_document.decode(DaemonClient(info).status())
        except EndpointError:
            if (code := daemon.poll()) is None:
                raise
            ended = f"the daemon has ended ({describe_exit(code)})"
            msg = f"{ended}; its log {self.place.log_path} ends:\n{daemon.log_tail()}"
            raise DaemonStartError(msg) from None

    def _sum_up(self, unfinished: set[str]) -> int:
        document = status_document.read_last(self.place.state_dir)
        if document is None:
            say(f"the daemon wrote no last status; see {self.place.log_path}")
            return 1
        runs = tuple(run for run in document.runs if run.run_id in unfinished)
        for line in status_view.summary(msgspec.structs.replace(document, runs=runs)):
            say(line)
        if any(is_unfinished(run) for run in runs):
            say(self.place.kept())
            return 1
        return 0


def is_unfinished(run: RunStatusEntry) -> bool:
    """True if the run has not ended, or a backend lacks some of it."""
    return _goes_on(run) or any(_is_behind(backend) for backend in run.backends)


def can_go_on(document: StatusDocument) -> bool:
    """True if waiting may help; False if backends refuse all that is left."""
    return any(
        _goes_on(run) or any(_is_behind(b) and b.state != "paused" for b in run.backends)
        for run in document.runs
    )


def outlook(document: StatusDocument) -> str:
    """Return what ``sync`` is waiting for, for a person."""
    running = [run.name or run.run_id for run in document.runs if _goes_on(run)]
    parts = []
    if backlog := status_view.backlog(document):
        parts.append(f"delivering {backlog}")
    if running:
        parts.append(f"waiting for ranks of {', '.join(running)} to return or to count as lost")
    return "; ".join(parts or ["delivering what is left"]) + " (Ctrl-C leaves it to the next time)"


def _goes_on(run: RunStatusEntry) -> bool:
    """True if this daemon still has to end the run; the root ends forwarded runs."""
    return run.ended is None and not run.forwarded


def _is_behind(backend: BackendStatus) -> bool:
    return backend.pending > 0
