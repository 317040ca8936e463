"""How the command of a launch ended, left by ``run`` for the daemon that it then stops.

A rank that ended without saying so (killed, say) has no exit code of its own; the command's stands
for it. Written to the state directory before the daemon gets SIGTERM.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from tracker_daemon.files.atomic_file import replace_file

FILE_NAME = "launch-outcome.json"


class LaunchOutcome(msgspec.Struct, frozen=True):
    """``launch_id`` is what the command's processes had as ``TRACKER_LAUNCH_ID``."""

    launch_id: str
    exit_status: int

    def write(self, state_dir: Path) -> None:
        """Leave it in ``state_dir``.

        Raises:
            OSError: it cannot be written.
        """
        replace_file(state_dir / FILE_NAME, msgspec.json.encode(self))

    @staticmethod
    def read(state_dir: Path) -> LaunchOutcome | None:
        """What the last launch left in ``state_dir``; None where there is nothing readable."""
        try:
            return msgspec.json.decode((state_dir / FILE_NAME).read_bytes(), type=LaunchOutcome)
        except (OSError, msgspec.DecodeError):
            return None

    @classmethod
    def is_left(cls, state_dir: Path, launch_id: str) -> bool:
        """Whether the command of this launch is over."""
        outcome = cls.read(state_dir)
        return outcome is not None and bool(launch_id) and outcome.launch_id == launch_id
