"""``run``: a daemon for one command, from its start to its last record.

    start the daemon → wait until it is ready → run the command → stop the daemon → sum up

The command's exit status is ours. A daemon that dies meanwhile is started again on its journal; the
ranks' clients find it through the endpoint file, and nothing that was acknowledged is lost. One
loop waits for all that can happen: a child's end, a signal, a deadline.
"""

from __future__ import annotations

import math
import signal
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tracker_daemon import status_document, status_view
from tracker_daemon.control import DaemonClient
from tracker_daemon.endpoint import EndpointInfo
from tracker_daemon.errors import CommandError, DaemonStartError, EndpointError
from tracker_daemon.grace import ranks_share_s
from tracker_daemon.launch.command_group import CommandGroup, find_program
from tracker_daemon.launch.daemon_process import LAUNCH_KEY_OPTION, DaemonProcess, describe_exit
from tracker_daemon.launch.environment import (
    ENDPOINT_FILE_VARIABLE,
    LAUNCH_ID_VARIABLE,
    OTHER_ENDPOINT_VARIABLES,
)
from tracker_daemon.launch.signals import ENDING, PASSED_ON, SignalInbox
from tracker_daemon.launch_outcome import LaunchOutcome
from tracker_daemon.status_document import StatusDocument

READY_TIMEOUT_S = 120.0
"""A lock left by another host is taken over after 60 s; a large journal replays in some seconds."""
READY_POLL_S = 0.02
PATIENCE_S = 2.0
"""How long a person waits before being told for what."""
TELL_AGAIN_S = 10.0
STATUS_TIMEOUT_S = 5.0
DRAIN_GRACE_S = 10.0
"""What a daemon may take beyond its drain time to close its files."""
LEAVE_GRACE_S = 2.0
RESTART_DELAY_MIN_S = 0.5
RESTART_DELAY_MAX_S = 30.0
STEADY_AFTER_S = 60.0
"""A daemon that lived this long failed afresh: it is started again without growing delays."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What is to be run, and the daemon for it.

    ``daemon_argv`` is the daemon's whole command line; it must write ``endpoint_file`` and keep its
    state in ``state_dir``. ``grace_s`` is what the batch system gives between SIGTERM and SIGKILL.
    """

    command: tuple[str, ...]
    daemon_argv: tuple[str, ...]
    state_dir: Path
    endpoint_file: Path
    log_path: Path
    drain_timeout_s: float
    environ: Mapping[str, str]
    grace_s: float | None = None
    launch_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def command_environment(self) -> dict[str, str]:
        """The command's environment: ours, with this launch and its daemon in it."""
        environ = dict(self.environ)
        for name in OTHER_ENDPOINT_VARIABLES:
            environ.pop(name, None)
        environ[LAUNCH_ID_VARIABLE] = self.launch_id
        environ[ENDPOINT_FILE_VARIABLE] = str(self.endpoint_file)
        return environ


class Launcher:
    """Runs one :class:`Launch`. Only the main thread may, since it takes the signals."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._started_s = time.time()
        self._restart_delay_s = RESTART_DELAY_MIN_S
        self._restart_at: float | None = None
        self._kill_at: float | None = None
        self._over_at = math.inf

    def run(self) -> int:
        """The command's exit status, 128 + N if signal N ended it.

        Raises:
            CommandNotFound, CommandNotExecutable: the command cannot be started.
            DaemonStartError: the daemon did not become ready; the command was not run.
        """
        find_program(self._launch.command[0], self._launch.environ.get("PATH"))
        with closing(SignalInbox([*PASSED_ON, signal.SIGCHLD])) as self._inbox:
            self._start_daemon()
            try:
                return self._run_beside_daemon()
            finally:
                self._daemon.close()
                if self._daemon.poll() is None:
                    self._daemon.kill()

    def _run_beside_daemon(self) -> int:
        try:
            self._await_ready()
            # What an earlier daemon left here is not this one's last word.
            (self._launch.state_dir / status_document.LAST_STATUS_FILE).unlink(missing_ok=True)
            status = self._await_command(
                CommandGroup(self._launch.command, self._launch.command_environment())
            )
        except _Interrupted as interrupted:
            self._end_daemon(LEAVE_GRACE_S)
            return 128 + interrupted.number
        except CommandError:
            self._end_daemon(LEAVE_GRACE_S)
            raise
        self._leave_outcome(status)
        self._drain()
        return status

    # ---- the daemon's start ----

    def _start_daemon(self) -> None:
        launch = self._launch
        self._restart_at = None
        self._daemon_since = time.monotonic()
        argv = (*launch.daemon_argv, f"{LAUNCH_KEY_OPTION}={launch.launch_id}")
        self._daemon = DaemonProcess(argv, launch.log_path, launch.endpoint_file)

    def _await_ready(self) -> EndpointInfo:
        """Where the daemon is, as soon as it is ready."""
        begun = time.monotonic()
        told = False
        while (info := self._daemon.ready()) is None:
            waited = time.monotonic() - begun
            if waited > READY_TIMEOUT_S:
                self._daemon.kill()
                msg = f"the daemon was not ready within {READY_TIMEOUT_S:.0f} s; see {self._launch.log_path}"
                raise DaemonStartError(msg)
            if waited > PATIENCE_S and not told:
                told = True
                _say("waiting for the daemon to open its journal")
            for number in self._inbox.wait(READY_POLL_S):
                if number in ENDING:
                    raise _Interrupted(number)
        return info

    # ---- while the command runs ----

    def _await_command(self, command: CommandGroup) -> int:
        while (status := command.poll()) is None:
            self._watch_daemon()
            self._watch_grace(command)
            for number in self._inbox.wait(self._until_next_s()):
                if number == signal.SIGTERM:
                    self._begin_grace()
                if number != signal.SIGCHLD:
                    command.send(number)
        return status

    def _begin_grace(self) -> None:
        grace_s = self._launch.grace_s
        if grace_s is not None and self._kill_at is None:
            now = time.monotonic()
            self._kill_at, self._over_at = now + ranks_share_s(grace_s), now + grace_s

    def _watch_grace(self, command: CommandGroup) -> None:
        """Kill a command that outstays its share before the batch system kills us with it."""
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = math.inf
            _say(
                f"the command has not ended on SIGTERM and is killed: of the grace of "
                f"{self._launch.grace_s:g} s, the rest is for delivering what it logged"
            )
            command.send(signal.SIGKILL)

    def _watch_daemon(self) -> None:
        if self._restart_at is not None:
            if time.monotonic() >= self._restart_at:
                self._start_daemon()
        elif (code := self._daemon.poll()) is not None:
            self._schedule_restart(code)

    def _schedule_restart(self, code: int) -> None:
        now = time.monotonic()
        if now - self._daemon_since > STEADY_AFTER_S:
            self._restart_delay_s = RESTART_DELAY_MIN_S
        _say(
            f"the daemon ended while the command runs ({describe_exit(code)}); it is started again on its "
            f"journal in {self._restart_delay_s:g} s. Its log {self._launch.log_path} ends:\n"
            + self._daemon.log_tail()
        )
        self._daemon.close()
        self._restart_at = now + self._restart_delay_s
        self._restart_delay_s = min(2 * self._restart_delay_s, RESTART_DELAY_MAX_S)

    def _until_next_s(self) -> float | None:
        """How long nothing is to be done but to wait for a signal; None: for ever."""
        due = min(self._restart_at or math.inf, self._kill_at or math.inf)
        return None if due == math.inf else max(0.0, due - time.monotonic())

    # ---- the end ----

    def _leave_outcome(self, status: int) -> None:
        try:
            LaunchOutcome(self._launch.launch_id, status).write(self._launch.state_dir)
        except OSError as error:
            _say(f"the command's exit status could not be left for the daemon: {error}")

    def _drain(self) -> None:
        """Have everything delivered and say where it is. What goes wrong here is not the command's fault."""
        document: StatusDocument | None = None
        for last_try in (False, True):
            try:
                document, ended_well = self._stop_daemon()
            except DaemonStartError as error:
                if last_try:
                    _say(f"{error}\n{self._kept()}")
                    return
                continue
            if ended_well:
                break
            # It was dying already when it was asked to end: what it had not delivered is in its journal.
        self._sum_up(status_document.read_last(self._launch.state_dir) or document)

    def _stop_daemon(self) -> tuple[StatusDocument | None, bool]:
        """How it stood before it delivered the rest, and whether it then ended as it was asked to."""
        if self._daemon.poll() is not None:
            self._start_daemon()
        try:
            document = _status(self._await_ready())
        except _Interrupted:
            self._end_daemon(LEAVE_GRACE_S)
            return None, True
        drain_s = self._launch.drain_timeout_s + DRAIN_GRACE_S
        return document, self._end_daemon(min(drain_s, max(0.0, self._over_at - time.monotonic())))

    def _end_daemon(self, grace_s: float) -> bool:
        """Ask the daemon to end and wait for it; Ctrl-C makes that short. False where it died instead."""
        self._daemon.terminate()
        deadline = time.monotonic() + grace_s
        tell_at = time.monotonic() + PATIENCE_S
        while (code := self._daemon.poll()) is None:
            now = time.monotonic()
            if now >= deadline:
                self._daemon.kill()
                _say(f"the daemon had not ended in time and was killed; {self._kept()}")
                return True
            if now >= tell_at:
                tell_at = now + TELL_AGAIN_S
                _say(f"{self._left()}, {deadline - now:.0f} s at most (Ctrl-C leaves at once)")
            if signal.SIGINT in self._inbox.wait(min(deadline, tell_at) - now):
                self._daemon.hurry()
                deadline = tell_at = time.monotonic() + LEAVE_GRACE_S
        return code == 0

    def _left(self) -> str:
        """What the daemon is delivering, as it says itself from time to time while it does."""
        document = status_document.read_last(self._launch.state_dir)
        backlog = status_view.backlog(document) if document is not None else ""
        return f"delivering {backlog or 'what is left'}"

    def _sum_up(self, document: StatusDocument | None) -> None:
        if document is None:
            _say(f"the daemon left no status; see {self._launch.log_path}")
            return
        lines = status_view.summary(document, since_s=self._started_s)
        if not lines:
            _say(
                "no rank connected, so nothing was recorded. Does the command call setup_tracker(), and its "
                f"launcher pass the environment on ({ENDPOINT_FILE_VARIABLE}={self._launch.endpoint_file})?"
            )
        for line in lines:
            _say(line)

    def _kept(self) -> str:
        return f"what was not delivered stays in the journal in {self._launch.state_dir}"


class _Interrupted(Exception):
    """A signal asked us to end while nothing but the daemon ran."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


def _status(info: EndpointInfo) -> StatusDocument | None:
    """The document as it stands: what we know should the daemon not come to write its last one."""
    try:
        return status_document.decode(DaemonClient(info).status(STATUS_TIMEOUT_S))
    except EndpointError:
        return None


def _say(text: str) -> None:
    sys.stderr.write(f"tracker-daemon: {text}\n")
    sys.stderr.flush()
