"""The end of a launch's command, written by ``run`` for the daemon that it then stops.

A rank that ended without a message (a killed one, say) has no exit code of its own; the command's exit status
counts for it. The file is written to the state directory before the daemon gets SIGTERM.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from tracker_daemon.files.atomic_file import replace_file

FILE_NAME = "launch-outcome.json"


class LaunchOutcome(msgspec.Struct, frozen=True):
    """The exit status of a launch's command. ``launch_id`` was its processes' ``TRACKER_LAUNCH_ID``."""

    launch_id: str
    exit_status: int
    pid: int = 0
    """The command's process."""
    starter_pid: int = 0
    """The process that started the command."""
    program: str = ""
    """The name of the command's program."""

    def write(self, state_dir: Path) -> None:
        """Write the outcome to ``state_dir``.

        Raises:
            OSError: the file cannot be written.
        """
        replace_file(state_dir / FILE_NAME, msgspec.json.encode(self))

    @staticmethod
    def read(state_dir: Path) -> LaunchOutcome | None:
        """Return the outcome of the last launch in ``state_dir``; None if there is none that can be read."""
        try:
            return msgspec.json.decode((state_dir / FILE_NAME).read_bytes(), type=LaunchOutcome)
        except (OSError, msgspec.DecodeError):
            return None

    @classmethod
    def is_known(cls, state_dir: Path, launch_id: str) -> bool:
        """Return True if the command of this launch is over."""
        outcome = cls.read(state_dir)
        return outcome is not None and bool(launch_id) and outcome.launch_id == launch_id
