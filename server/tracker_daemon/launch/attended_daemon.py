"""A daemon that a person waits for: until it is ready, and until it has delivered and ended.

Signals cut both waits short. A wait that takes long prints what it is waiting for.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tracker_daemon.endpoints.endpoint_file import EndpointInfo
from tracker_daemon.errors import DaemonStartError
from tracker_daemon.launch.daemon_process import DaemonProcess
from tracker_daemon.launch.signals import ENDING, SignalInbox
from tracker_daemon.status import document as status_document
from tracker_daemon.status import view as status_view

READY_TIMEOUT_S = 120.0
"""A lock left by another host is taken over after 60 s; a large journal replays in some seconds."""
READY_POLL_S = 0.02
PATIENCE_S = 2.0
"""A wait longer than this prints its reason."""
TELL_AGAIN_S = 10.0
LEAVE_GRACE_S = 2.0


class Interrupted(Exception):
    """A signal asked this process to end while only the daemon was running."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


@dataclass(frozen=True, slots=True)
class DaemonPlace:
    """The files of a daemon to be started, which must write ``endpoint_file``."""

    state_dir: Path
    endpoint_file: Path
    log_path: Path

    def kept(self) -> str:
        """The directory of the undelivered data, for a message."""
        return f"what was not delivered stays in the journal in {self.state_dir}"


class AttendedDaemon(DaemonProcess):
    """A daemon started with ``argv``; signals are read from ``inbox``."""

    def __init__(self, argv: Sequence[str], place: DaemonPlace, inbox: SignalInbox) -> None:
        super().__init__(argv, place.log_path, place.endpoint_file)
        self._place = place
        self._inbox = inbox

    def await_ready(self) -> EndpointInfo:
        """Return the daemon's endpoint as soon as it is ready.

        Raises:
            DaemonStartError: it ended, or was not ready in time.
            Interrupted: a signal asked this process to end.
        """
        begun = time.monotonic()
        announced = False
        while (info := self.ready()) is None:
            waited = time.monotonic() - begun
            if waited > READY_TIMEOUT_S:
                self.kill()
                log_path = self._place.log_path
                msg = f"the daemon was not ready within {READY_TIMEOUT_S:.0f} s; see {log_path}"
                raise DaemonStartError(msg)
            if waited > PATIENCE_S and not announced:
                announced = True
                say("waiting for the daemon to open its journal")
            for number in self._inbox.wait(READY_POLL_S):
                if number in ENDING:
                    raise Interrupted(number)
        return info

    def end(self, grace_s: float) -> bool:
        """Stop the daemon and wait for it; Ctrl-C shortens the wait. False if the daemon died instead."""
        self.terminate()
        deadline = time.monotonic() + grace_s
        tell_at = time.monotonic() + PATIENCE_S
        while (code := self.poll()) is None:
            now = time.monotonic()
            if now >= deadline:
                self.kill()
                say(f"the daemon had not ended in time and was killed; {self._place.kept()}")
                return True
            if now >= tell_at:
                tell_at = now + TELL_AGAIN_S
                say(f"{self._left()}, {deadline - now:.0f} s at most (Ctrl-C leaves at once)")
            if signal.SIGINT in self._inbox.wait(min(deadline, tell_at) - now):
                self.hurry()
                deadline = tell_at = time.monotonic() + LEAVE_GRACE_S
        return code == 0

    def _left(self) -> str:
        """The daemon's backlog, read from the status file that it writes while it delivers."""
        document = status_document.read_last(self._place.state_dir)
        backlog = status_view.backlog(document) if document is not None else ""
        return f"delivering {backlog or 'what is left'}"


def say(text: str) -> None:
    """Print a line for the person who waits."""
    sys.stderr.write(f"tracker-daemon: {text}\n")
    sys.stderr.flush()
