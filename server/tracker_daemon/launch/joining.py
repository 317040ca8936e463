"""``run --join``: a command on a further node, whose ranks stream to the daemon of the first.

Nothing is started but the command. The daemon of the first node's ``run`` tells the id of its launch, so
that the ranks of all nodes meet in one run; it may come up later than this node does.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from tracker_daemon import status_document
from tracker_daemon.control import DaemonClient
from tracker_daemon.errors import DaemonNotRunning, EndpointError
from tracker_daemon.launch.command_group import CommandGroup, find_program
from tracker_daemon.launch.environment import (
    ENDPOINT_FILE_VARIABLE,
    ENDPOINT_VARIABLE,
    LAUNCH_ID_VARIABLE,
)
from tracker_daemon.launch.signals import ENDING, PASSED_ON, SignalInbox
from tracker_daemon.locate import EndpointChoice, locate

JOIN_TIMEOUT_S = 300.0
"""The nodes of a job start their commands within minutes of one another."""
JOIN_RETRY_S = 0.5
STATUS_TIMEOUT_S = 5.0
PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Joining:
    """A command and the daemon to join, which ``choice`` names by its address or its endpoint file."""

    command: tuple[str, ...]
    choice: EndpointChoice
    environ: Mapping[str, str]

    def run(self) -> int:
        """The command's exit status, 128 + N if signal N ended it, or ended the wait for the daemon.

        Raises:
            CommandNotFound, CommandNotExecutable: the command cannot be started.
            EndpointError: no daemon answered in time, or it refuses; the command was not run.
        """
        find_program(self.command[0], self.environ.get("PATH"))
        with closing(SignalInbox([*PASSED_ON, signal.SIGCHLD])) as inbox:
            launch_id = self._await_daemon(inbox)
            if isinstance(launch_id, signal.Signals):
                return 128 + launch_id
            command = CommandGroup(self.command, self.command_environment(launch_id))
            while (status := command.poll()) is None:
                for number in inbox.wait(None):
                    if number != signal.SIGCHLD:
                        command.send(number)
            return status

    def command_environment(self, launch_id: str) -> dict[str, str]:
        """The command's environment: ours, with the daemon to join and no other, and its launch."""
        environ = dict(self.environ)
        environ.pop(ENDPOINT_VARIABLE, None)
        environ.pop(ENDPOINT_FILE_VARIABLE, None)
        if self.choice.endpoint_file is not None:
            environ[ENDPOINT_FILE_VARIABLE] = str(self.choice.endpoint_file.absolute())
        elif self.choice.endpoint is not None:
            environ[ENDPOINT_VARIABLE] = self.choice.endpoint
        if launch_id:
            environ[LAUNCH_ID_VARIABLE] = launch_id
        return environ

    def _await_daemon(self, inbox: SignalInbox) -> str | signal.Signals:
        """The launch id that the daemon tells, "" for one that serves many; or the signal that came first."""
        begun, told = time.monotonic(), False
        while True:
            try:
                info = locate(self.choice, self.environ)
                document = status_document.decode(DaemonClient(info).status(STATUS_TIMEOUT_S))
            except DaemonNotRunning as error:
                waited = time.monotonic() - begun
                if waited > JOIN_TIMEOUT_S:
                    raise EndpointError(
                        f"no daemon to join within {JOIN_TIMEOUT_S:.0f} s: {error}"
                    ) from error
                if waited > PATIENCE_S and not told:
                    told = True
                    sys.stderr.write(f"tracker-daemon: waiting for the daemon to join: {error}\n")
            else:
                return document.daemon.launch_id
            for number in inbox.wait(JOIN_RETRY_S):
                if number in ENDING:
                    return number
