"""``run --join``: a command on a further node, whose ranks stream to the daemon of the first.

Only the command is started. The daemon of the first node's ``run`` gives the id of its launch, so that the
ranks of all nodes join one run. That daemon may start later than this node.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from tracker_daemon.endpoints.locate import EndpointChoice, locate
from tracker_daemon.launch.command_group import CommandGroup, find_program
from tracker_daemon.launch.environment import (
    ENDPOINT_FILE_VARIABLE,
    ENDPOINT_VARIABLE,
    LAUNCH_ID_VARIABLE,
)
from tracker_daemon.launch.finding import await_daemon
from tracker_daemon.launch.signals import PASSED_ON, SignalInbox
from tracker_daemon.settings.directories import absolute


@dataclass(frozen=True, slots=True)
class Joining:
    """A command and the daemon to join; ``choice`` names it by address or endpoint file."""

    command: tuple[str, ...]
    choice: EndpointChoice
    environ: Mapping[str, str]

    def run(self) -> int:
        """Run the command; return its exit status, 128 + N if signal N ended it or the wait for the daemon.

        Raises:
            CommandNotFound, CommandNotExecutable: the command cannot be started.
            EndpointError: no daemon answered in time, or it refuses; the command was not run.
        """
        find_program(self.command[0], self.environ.get("PATH"))
        with closing(SignalInbox([*PASSED_ON, signal.SIGCHLD])) as inbox:
            found = await_daemon(lambda: locate(self.choice, self.environ), "to join", inbox)
            if isinstance(found, signal.Signals):
                return 128 + found
            # "" if the daemon serves many launches.
            command = CommandGroup(self.command, self.command_environment(found.daemon.launch_id))
            while (status := command.poll()) is None:
                for number in inbox.wait(None):
                    if number != signal.SIGCHLD:
                        command.send(number)
            return status

    def command_environment(self, launch_id: str) -> dict[str, str]:
        """Return the command's environment: ours, with the launch and the daemon to join, and no other."""
        environ = dict(self.environ)
        environ.pop(ENDPOINT_VARIABLE, None)
        environ.pop(ENDPOINT_FILE_VARIABLE, None)
        if self.choice.endpoint_file is not None:
            environ[ENDPOINT_FILE_VARIABLE] = str(absolute(self.choice.endpoint_file))
        elif self.choice.endpoint is not None:
            environ[ENDPOINT_VARIABLE] = self.choice.endpoint
        if launch_id:
            environ[LAUNCH_ID_VARIABLE] = launch_id
        return environ
