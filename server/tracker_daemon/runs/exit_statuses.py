"""The exit statuses of ranks whose scripts ended without ``finish()``.

Such a rank's exit handler names a file that the C library writes the status to when the process ends
(``tracker_client.trackers.exit_status``). This daemon opens the file while the process still lives, and reads
it afterwards. The status stays unknown if the process is on another host, or has no such file.

If the ranks belong to a command that this daemon's starter runs, their end is held back for some seconds: the
command may be about to fail, and then its runs have failed.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tracker_daemon.aggregation.values.batch import Exiting
from tracker_daemon.errors import JournalError
from tracker_daemon.journal.event import EventKind
from tracker_daemon.journal.store import Journal
from tracker_daemon.processes.host_watch import HostWatch
from tracker_daemon.recording import events
from tracker_daemon.recording.recorder import Recorder, Submission
from tracker_daemon.runs.run import Stream
from tracker_protocol import limits


@dataclass(slots=True)
class _Awaited:
    stream: Stream
    descriptor: int | None
    nonce: bytes
    gone_s: float | None = None
    """The time at which the process was first seen gone."""
    settled_s: float | None = None
    """The time since which the status is known, or known to stay unknown."""
    code: int | None = None


class ExitStatuses:
    """Waits for exit statuses, and journals them. On the event loop.

    ``has_command``: this daemon's starter runs a command, whose end it reports.
    """

    def __init__(
        self,
        recorder: Recorder,
        host: HostWatch,
        *,
        has_command: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._recorder = recorder
        self._host = host
        self._held_s = limits.COMMAND_END_WAIT_S if has_command else 0.0
        self._clock = clock
        self._awaited: list[_Awaited] = []

    def expect(self, stream: Stream, exiting: Exiting) -> None:
        """Wait for the status of a rank's process, which is exiting."""
        descriptor = self._open(stream, exiting)
        self._awaited.append(_Awaited(stream, descriptor, exiting.nonce))

    def poll(self) -> None:
        """Journal the statuses that are known by now."""
        now = self._clock()
        for awaited in list(self._awaited):
            self._look(awaited, now)
            if awaited.settled_s is not None and now - awaited.settled_s >= self._held_s:
                self._report(awaited)

    def are_known(self) -> bool:
        """Return True if no status is awaited that may still become known."""
        for awaited in self._awaited:
            self._look(awaited, self._clock())
        return all(awaited.settled_s is not None for awaited in self._awaited)

    def settle(self) -> None:
        """Journal every status as far as it is known: the daemon or its command ends."""
        for awaited in list(self._awaited):
            self._look(awaited, self._clock())
            self._report(awaited)

    def _open(self, stream: Stream, exiting: Exiting) -> int | None:
        if not exiting.status_fd or not self._host.is_here(stream.place):
            return None
        path = f"/proc/{stream.pid}/fd/{exiting.status_fd}"
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - a link that only the kernel resolves
                return None
            descriptor = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        if os.pread(descriptor, len(exiting.nonce), 0) == exiting.nonce:
            return descriptor
        os.close(descriptor)
        return None

    def _look(self, awaited: _Awaited, now: float) -> None:
        if awaited.settled_s is not None:
            return
        written = b""
        if awaited.descriptor is not None:
            with contextlib.suppress(OSError):
                written = os.pread(awaited.descriptor, 1, len(awaited.nonce))
        if written:
            awaited.code, awaited.settled_s = written[0], now
        elif awaited.descriptor is None:
            awaited.settled_s = now
        elif self._host.is_gone(awaited.stream.place):
            awaited.gone_s = now if awaited.gone_s is None else awaited.gone_s
            if now - awaited.gone_s >= limits.VANISHED_AFTER_S:
                awaited.settled_s = now

    def _report(self, awaited: _Awaited) -> None:
        self._awaited.remove(awaited)
        if awaited.descriptor is not None:
            os.close(awaited.descriptor)
        stream = awaited.stream
        event = events.ExitStatusEvent(stream.rank, stream.attempt, awaited.code)
        prepare = None if not awaited.code else partial(_note_code, stream.stream_id, awaited.code)
        with contextlib.suppress(JournalError):  # the journal is closed, so the daemon is ending
            self._recorder.submit(
                Submission(
                    stream.run.live, EventKind.EXIT_STATUS, payload=events.encode(event), prepare=prepare
                )
            )


def _note_code(stream_id: bytes, code: int, journal: Journal) -> None:
    journal.update_stream(stream_id, finished=True, exit_code=code)
