"""``run``: a daemon for one command, from its start to its last record.

    start the daemon → wait until it is ready → run the command → stop the daemon → sum up

The exit status is the command's. A daemon that dies is started again on its journal. The ranks' clients
find it through the endpoint file, and no acknowledged data is lost. One loop waits for every event: a
child's end, a signal, a deadline.
"""

from __future__ import annotations

import math
import os
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field

from tracker_daemon.endpoints.control import DaemonClient
from tracker_daemon.endpoints.endpoint_file import EndpointInfo
from tracker_daemon.errors import CommandError, DaemonStartError, EndpointError
from tracker_daemon.launch.attended_daemon import LEAVE_GRACE_S, AttendedDaemon, DaemonPlace, Interrupted, say
from tracker_daemon.launch.command_group import CommandGroup, find_program
from tracker_daemon.launch.daemon_process import LAUNCH_KEY_OPTION, describe_exit
from tracker_daemon.launch.environment import (
    ENDPOINT_FILE_VARIABLE,
    LAUNCH_ID_VARIABLE,
    OTHER_ENDPOINT_VARIABLES,
)
from tracker_daemon.launch.finding import await_daemon
from tracker_daemon.launch.signals import PASSED_ON, SignalInbox
from tracker_daemon.lifecycle.grace import ranks_share_s
from tracker_daemon.runs.launch_outcome import LaunchOutcome
from tracker_daemon.status import document as status_document
from tracker_daemon.status import view as status_view
from tracker_daemon.status.document import StatusDocument
from tracker_protocol.host_processes import program_name

STATUS_TIMEOUT_S = 5.0
DRAIN_GRACE_S = 10.0
"""Time for a daemon to close its files, beyond its drain time."""
RESTART_DELAY_MIN_S = 0.5
RESTART_DELAY_MAX_S = 30.0
STEADY_AFTER_S = 60.0
"""A daemon that ran this long before it failed is restarted without a growing delay."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A command, and the daemon for it.

    ``daemon_argv`` is the daemon's whole command line; its files must be at ``place``. ``grace_s`` is the
    batch system's time between SIGTERM and SIGKILL, in seconds.
    """

    command: tuple[str, ...]
    daemon_argv: tuple[str, ...]
    place: DaemonPlace
    drain_timeout_s: float
    environ: Mapping[str, str]
    grace_s: float | None = None
    upstream: Callable[[], EndpointInfo] | None = None
    """Finds the root, if this launch's daemon forwards to one; None if it does not."""
    launch_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def command_environment(self, shared_id: str = "") -> dict[str, str]:
        """Return the command's environment: ours, with this launch and its daemon.

        If the daemon forwards, all nodes share one launch: ``shared_id`` as the root gives it, else the id
        of the environment or the launcher.
        """
        environ = dict(self.environ)
        for name in OTHER_ENDPOINT_VARIABLES:
            environ.pop(name, None)
        launch_id = shared_id if self.upstream is not None else self.launch_id
        if launch_id:
            environ[LAUNCH_ID_VARIABLE] = launch_id
        environ[ENDPOINT_FILE_VARIABLE] = str(self.place.endpoint_file)
        return environ


class Launcher:
    """Runs one :class:`Launch`, on the main thread only, since it handles signals."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._started_s = time.time()
        self._restart_delay_s = RESTART_DELAY_MIN_S
        self._restart_at: float | None = None
        self._kill_at: float | None = None
        self._over_at = math.inf
        self._shared_id = ""

    def run(self) -> int:
        """Run it; return the command's exit status, 128 + N if signal N ended it.

        Raises:
            CommandNotFound, CommandNotExecutable: the command cannot be started.
            DaemonStartError: the daemon did not become ready; the command was not run.
            EndpointError: no root was found; the command was not run.
        """
        find_program(self._launch.command[0], self._launch.environ.get("PATH"))
        with closing(SignalInbox([*PASSED_ON, signal.SIGCHLD])) as self._inbox:
            if self._launch.upstream is not None:
                found = await_daemon(self._launch.upstream, "to forward to", self._inbox)
                if isinstance(found, signal.Signals):
                    return 128 + found
                self._shared_id = found.daemon.launch_id
            self._start_daemon()
            try:
                return self._run_beside_daemon()
            finally:
                self._daemon.close()
                if self._daemon.poll() is None:
                    self._daemon.kill()

    def _run_beside_daemon(self) -> int:
        try:
            self._daemon.await_ready()
            # A status file of an earlier daemon says nothing about this one.
            (self._launch.place.state_dir / status_document.LAST_STATUS_FILE).unlink(missing_ok=True)
            command = CommandGroup(self._launch.command, self._launch.command_environment(self._shared_id))
            status = self._await_command(command)
        except Interrupted as interrupted:
            self._daemon.end(LEAVE_GRACE_S)
            return 128 + interrupted.number
        except CommandError:
            self._daemon.end(LEAVE_GRACE_S)
            raise
        self._leave_outcome(command, status)
        self._drain()
        return status

    # ---- the daemon's start ----

    def _start_daemon(self) -> None:
        launch = self._launch
        self._restart_at = None
        self._daemon_since = time.monotonic()
        argv = (*launch.daemon_argv, f"{LAUNCH_KEY_OPTION}={launch.launch_id}")
        self._daemon = AttendedDaemon(argv, launch.place, self._inbox)

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
            share_s = ranks_share_s(grace_s, forwards=self._launch.upstream is not None)
            self._kill_at, self._over_at = now + share_s, now + grace_s

    def _watch_grace(self, command: CommandGroup) -> None:
        """Kill a command that exceeds its share of the grace, before the batch system kills everything."""
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = math.inf
            say(
                f"the command has not ended on SIGTERM and is killed: of the grace of "
                f"{self._launch.grace_s:g} s, the rest is for delivering its data"
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
        say(
            f"the daemon ended while the command runs ({describe_exit(code)}); it is started again on its "
            f"journal in {self._restart_delay_s:g} s. Its log {self._launch.place.log_path} ends:\n"
            + self._daemon.log_tail()
        )
        self._daemon.close()
        self._restart_at = now + self._restart_delay_s
        self._restart_delay_s = min(2 * self._restart_delay_s, RESTART_DELAY_MAX_S)

    def _until_next_s(self) -> float | None:
        """The seconds until the next deadline; None if only a signal can happen."""
        due = min(self._restart_at or math.inf, self._kill_at or math.inf)
        return None if due == math.inf else max(0.0, due - time.monotonic())

    # ---- the end ----

    def _leave_outcome(self, command: CommandGroup, status: int) -> None:
        outcome = LaunchOutcome(
            self._launch.launch_id, status, command.pid, os.getpid(), program_name(self._launch.command)
        )
        try:
            outcome.write(self._launch.place.state_dir)
        except OSError as error:
            say(f"the command's exit status could not be saved for the daemon: {error}")

    def _drain(self) -> None:
        """Deliver everything and print where it is. Failures here do not change the exit status."""
        document: StatusDocument | None = None
        for last_try in (False, True):
            try:
                document, ended_well = self._stop_daemon()
            except DaemonStartError as error:
                if last_try:
                    say(f"{error}\n{self._launch.place.kept()}")
                    return
                continue
            if ended_well:
                break
            # The daemon was dying when it was asked to end: its journal has the undelivered data.
        self._sum_up(status_document.read_last(self._launch.place.state_dir) or document)

    def _stop_daemon(self) -> tuple[StatusDocument | None, bool]:
        """Return the status before the final delivery, and True if the daemon then ended as asked."""
        if self._daemon.poll() is not None:
            self._start_daemon()
        try:
            document = _status(self._daemon.await_ready())
        except Interrupted:
            self._daemon.end(LEAVE_GRACE_S)
            return None, True
        drain_s = self._launch.drain_timeout_s + DRAIN_GRACE_S
        return document, self._daemon.end(min(drain_s, max(0.0, self._over_at - time.monotonic())))

    def _sum_up(self, document: StatusDocument | None) -> None:
        if document is None:
            say(f"the daemon wrote no last status; see {self._launch.place.log_path}")
            return
        lines = status_view.summary(document, since_s=self._started_s)
        if not lines:
            passed_on = f"{ENDPOINT_FILE_VARIABLE}={self._launch.place.endpoint_file}"
            say(
                "no rank connected, so nothing was recorded. Does the command call setup_tracker(), and its "
                f"launcher pass the environment on ({passed_on})?"
            )
        for line in lines:
            say(line)


def _status(info: EndpointInfo) -> StatusDocument | None:
    """Return the current status, in case the daemon fails before it writes its last one."""
    try:
        return status_document.decode(DaemonClient(info).status(STATUS_TIMEOUT_S))
    except EndpointError:
        return None
